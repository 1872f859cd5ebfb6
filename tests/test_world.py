"""The embedded world: the same seed gives the same bytes, splits share no scene, and no text gives the answer away."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import SOAK
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from experiments.world.build import WorldError, build_world
from experiments.world.captions import draw_caption
from experiments.world.hypotheses import draw_hypothesis
from experiments.world.memes import KIND, UNKIND, draw_triple
from experiments.world.programs import draw_program_questions
from experiments.world.questions import annotate, draw_questions
from experiments.world.renderer import jpeg_bytes, render
from experiments.world.scene import BACKGROUNDS, EVERYTHING, OPEN, Item, Scene, draw_scene, relation
from experiments.world.write_captions import FLICKR, flickr_scenes
from experiments.world.write_gqa import gqa_scene
from experiments.world.write_vqa import STYLE as VQA_STYLE
from experiments.world.write_vqa import vqa_scene
from tasks import load_task

TRAIN, TEST = (20_000, 10_000) if SOAK else (3_000, 1_500)
MARGIN = 0.03 if SOAK else 0.06


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"), seed=3, scale=0.01, workers=1)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(world: Path, tmp_path: Path) -> None:
    again = build_world(tmp_path / "a", seed=3, scale=0.01, workers=2)
    assert digests(again) == digests(world)
    other = build_world(tmp_path / "b", seed=4, scale=0.01, workers=1)
    assert digests(other)["vqa/factors.json"] != digests(world)["vqa/factors.json"]


def test_another_world_in_the_same_folder_is_refused(world: Path) -> None:
    with pytest.raises(WorldError, match="holds another world"):
        build_world(world, seed=5, scale=0.01)


def test_every_split_is_read_by_the_official_readers(world: Path) -> None:
    for name in ("flickr30k", "coco", "vqa", "gqa", "snli_ve", "hateful_memes"):
        for split in ("train", "select", "test"):
            read = load_task(name).read(world / name, split)
            assert read.check_images() == [] and all(example.slices for example in read.examples)


def test_splits_share_no_scene() -> None:
    for scenes in (
        [vqa_scene(0, split, k) for split in (0, 1) for k in range(300)],
        [gqa_scene(0, split, k) for split in (0, 1, 2) for k in range(200)],
        [scene for split in (0, 1, 2) for scene in flickr_scenes(0, split, 200)],
    ):
        assert len({scene.key for scene in scenes}) == len(scenes)


def test_scenes_have_the_attributes_they_promise() -> None:
    scenes = [draw_scene(np.random.default_rng([1, k]), EVERYTHING) for k in range(1500)]
    items = [item for scene in scenes for item in scene.items]
    for factor, least in (("shape", 6), ("colour", 8), ("texture", 3), ("size", 2)):
        assert len({item.attribute(factor) for item in items}) >= least
    counts = Counter(len(scene.items) for scene in scenes)
    assert set(counts) == {1, 2, 3, 4, 5, 6} and sum(counts[k] for k in (1, 2, 3, 4)) / len(scenes) > 0.8
    for scene in scenes:
        for k, first in enumerate(scene.items):
            for second in scene.items[k + 1 :]:
                assert np.hypot(first.x - second.x, first.y - second.y) > first.radius + second.radius


def test_relations_are_those_of_the_picture() -> None:
    left, right = Item("star", "red", "plain", "small", 20, 60), Item("ring", "blue", "plain", "large", 90, 64)
    assert relation(left, right) == "left of" and relation(right, left) == "right of"
    above = Item("star", "red", "plain", "small", 60, 30)
    assert relation(above, Item("ring", "red", "plain", "small", 62, 90)) == "above"
    assert relation(left, Item("ring", "red", "plain", "small", 60, 100)) == ""


def test_each_factor_changes_the_picture() -> None:
    item = Item("star", "red", "plain", "large", 64, 64)
    pictures = {
        "base": Scene((item,), "fog", 1),
        "colour": Scene((Item("star", "blue", "plain", "large", 64, 64),), "fog", 1),
        "shape": Scene((Item("ring", "red", "plain", "large", 64, 64),), "fog", 1),
        "texture": Scene((Item("star", "red", "striped", "large", 64, 64),), "fog", 1),
        "curtain": Scene((item,), "fog", 1, curtain="left"),
        "text": Scene((item,), "fog", 1, top_text="music"),
        **{name: Scene((item,), name, 1) for name in BACKGROUNDS if name != "fog"},
    }
    assert len({jpeg_bytes(render(scene)) for scene in pictures.values()}) == len(pictures)
    red = np.asarray(render(pictures["base"]))[64, 64].astype(int)
    assert red[0] > 180 and red[1] < 80 and red[2] < 80


def test_captions_of_one_picture_differ_in_what_they_mention() -> None:
    different = 0
    for k in range(100):
        rng = np.random.default_rng([2, k])
        scene = draw_scene(rng, OPEN)
        captions = [draw_caption(rng, scene, background=0.4) for _ in range(5)]
        different += len({caption.factors for caption in captions}) > 1
    assert different > 95


def test_annotators_disagree_now_and_then() -> None:
    agreed, total = 0, 0
    for k in range(200):
        rng = np.random.default_rng([3, k])
        for question in draw_questions(rng, draw_scene(rng, VQA_STYLE), 5):
            answers = [answer for answer, _ in annotate(rng, question)]
            assert len(answers) == 10 and Counter(answers).most_common(1)[0][1] >= 4
            agreed, total = agreed + (len(set(answers)) == 1), total + 1
    assert 0.4 < agreed / total < 0.95


def test_memes_come_with_confounders_that_flip_either_side() -> None:
    for k in range(60):
        triple = draw_triple(np.random.default_rng([4, k]), OPEN)
        labels = [meme.label for meme in triple]
        assert sorted(labels) in ([0, 0, 1], [0, 1, 1])
        by_text, by_items = defaultdict(set), defaultdict(set)
        for meme in triple:
            by_text[meme.text].add(meme.label)
            by_items[meme.scene.items].add(meme.label)
            verb, value = meme.text.split()
            seen = any(value in (item.colour, item.shape, item.texture) for item in meme.scene.items)
            assert meme.label == int((verb in UNKIND) == seen) and verb in KIND + UNKIND
        assert {0, 1} in by_text.values() and {0, 1} in by_items.values()


def test_gqa_entailment_and_choices_hold() -> None:
    for k in range(100):
        rng = np.random.default_rng([5, k])
        for question in draw_program_questions(rng, draw_scene(rng, OPEN), 6):
            assert question.answer in question.valid
            for entailed in question.entails:
                assert question.answer in entailed.text and entailed.answer == "yes"


def lines_of(kind: str, count: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Texts, labels and question types of `count` records, without painting a picture."""
    texts, labels, types = [], [], []
    k = 0
    while len(texts) < count:
        rng = np.random.default_rng([seed, 99, k])
        k += 1
        if kind == "snli_ve":
            scene = draw_scene(rng, FLICKR)
            found = [(h.text, h.label, "") for h in (draw_hypothesis(rng, scene) for _ in range(8))]
        elif kind == "hateful_memes":
            found = [(meme.text, str(meme.label), "") for meme in draw_triple(rng, OPEN)]
        elif kind == "vqa":
            questions = draw_questions(rng, draw_scene(rng, VQA_STYLE), 5)
            found = [(q.text, q.answer, q.text if q.kind == "count" else q.kind) for q in questions]
        else:
            programs = draw_program_questions(rng, draw_scene(rng, OPEN), 5)
            found = [(q.text, q.answer, q.detailed) for q in programs]
        for text, label, kind_of in found:
            texts.append(text)
            labels.append(label)
            types.append(kind_of)
    return texts[:count], labels[:count], types[:count]


def prior_accuracy(
    train: tuple[list[str], list[str], list[str]], test: tuple[list[str], list[str], list[str]]
) -> float:
    """Accuracy of each type's most frequent training label; a half where the question names two answers."""
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for label, kind in zip(train[1], train[2], strict=True):
        by_type[kind][label] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in by_type.items()}
    right = [
        0.5 if kind.startswith("choose") else float(best.get(kind) == label)
        for label, kind in zip(test[1], test[2], strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("kind", ["snli_ve", "hateful_memes", "vqa", "gqa"])
def test_words_alone_do_not_give_the_answer_away(kind: str) -> None:
    train, test = lines_of(kind, TRAIN, 0), lines_of(kind, TEST, 1)
    model = make_pipeline(CountVectorizer(ngram_range=(1, 3), binary=True), LogisticRegression(max_iter=200, C=0.3))
    model.fit(train[0], train[1])
    accuracy = model.score(test[0], test[1])
    prior = prior_accuracy(train, test)
    assert accuracy <= prior + MARGIN, f"{kind}: n-grams reach {accuracy:.3f}, the prior is {prior:.3f}"


def test_side_files_say_what_decides_each_record(world: Path) -> None:
    for name in ("vqa", "gqa", "snli_ve", "hateful_memes"):
        factors = json.loads((world / name / "factors.json").read_text())
        examples = load_task(name).read(world / name, "test").examples
        assert all(example.slices["factor"] == factors[example.id]["factor"] for example in examples)


@pytest.mark.parametrize("kind", ["snli_ve", "hateful_memes", "vqa", "gqa"])
def test_a_small_text_transformer_does_no_better(kind: str) -> None:
    train, test = lines_of(kind, TRAIN, 0), lines_of(kind, TEST, 1)
    accuracy = transformer_accuracy(train, test)
    prior = prior_accuracy(train, test)
    assert accuracy <= prior + MARGIN, f"{kind}: a transformer reaches {accuracy:.3f}, the prior is {prior:.3f}"


def transformer_accuracy(
    train: tuple[list[str], list[str], list[str]], test: tuple[list[str], list[str], list[str]]
) -> float:
    """Test accuracy of a two-layer transformer over words, trained for three passes."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    words = {word: k + 1 for k, word in enumerate(sorted({w for text in train[0] for w in text.split()}))}
    classes = {label: k for k, label in enumerate(sorted(set(train[1]) | set(test[1])))}

    def rows(part: tuple[list[str], list[str], list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.zeros(len(part[0]), 16, dtype=torch.long)
        for row, text in enumerate(part[0]):
            known = [words.get(word, 0) for word in text.split()][:16]
            ids[row, : len(known)] = torch.tensor(known)
        return ids, torch.tensor([classes[label] for label in part[1]])

    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True, norm_first=True)
    embed, place = nn.Embedding(len(words) + 1, 64), nn.Parameter(0.02 * torch.randn(16, 64))
    trunk, head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, len(classes))
    parameters = [*embed.parameters(), place, *trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    ids, labels = rows(train)
    for _ in range(3):
        for batch in torch.randperm(len(ids)).split(128):
            logits = head(trunk(embed(ids[batch]) + place).mean(1))
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trunk.eval()
    ids, labels = rows(test)
    with torch.no_grad():
        guesses = torch.cat([head(trunk(embed(part) + place).mean(1)).argmax(-1) for part in ids.split(512)])
    return float((guesses == labels).float().mean())
