"""Objectives: losses worked by hand, negatives from other images only, answers, reloading, and the documented
step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import official_files as official
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks import load_task
from tasks.base import Alone, Example, Objective, Split, States, Stream
from tasks.contrast import RetrievalObjective, own_mask, soft_cross_entropy
from tasks.errors import TaskError
from tasks.heads import MlpHead, Projection
from tasks.objectives import ClassificationObjective, SoftTargetObjective, load_objective


@dataclass(frozen=True)
class Pooled:
    pooled: Tensor


def states(
    num: int, *streams: Stream, width: int = 8, branches: int = 2, seed: int = 0
) -> dict[Stream, Pooled]:
    generator = torch.Generator().manual_seed(seed)
    return {stream: Pooled(torch.randn(num, branches, width, generator=generator)) for stream in streams}


def fixed(objective: SoftTargetObjective | ClassificationObjective, logits: list[float]) -> None:
    """Makes the head answer these logits whatever it is shown."""
    torch.nn.init.zeros_(objective.head.output.weight)
    objective.head.start_from(torch.tensor(logits))


def test_heads_treat_branches_alike_and_average() -> None:
    head, pooled = MlpHead(width=8, num_outputs=3), torch.randn(4, 2, 8)
    expected = (head(pooled[:, :1]) + head(pooled[:, 1:])) / 2
    assert torch.allclose(head(pooled), expected, atol=1e-6)
    embedded = Projection(width=8, shared=5)(pooled)
    assert embedded.shape == (4, 5) and torch.allclose(embedded.norm(dim=1), torch.ones(4))


def test_soft_target_loss_by_hand() -> None:
    objective = SoftTargetObjective(task="vqa", width=8, vocabulary=["yes", "no"])
    fixed(objective, [2.0, 0.0])
    examples = [
        Example(
            id="1", image="1.jpg", text="", target=("yes",) * 8 + ("no",) * 2, extra={"consensus": "yes"}
        ),
        Example(id="2", image="2.jpg", text="", target=("maybe",) * 10, extra={"consensus": "maybe"}),
    ]
    positive, negative = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    expected = (positive + math.log(2) + negative + math.log(2)) / 2
    assert objective.loss(states(2, "joint"), examples).item() == pytest.approx(expected, rel=1e-5)
    first, second = objective.answers(states(2, "joint"), examples)
    assert (first.prediction, first.target, first.score) == ("yes", "yes", 1.0)
    assert first.probability == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-5)
    assert first.logprob == pytest.approx(-math.log1p(math.exp(-2)), rel=1e-4)
    assert (second.target, second.score, second.logprob) == ("maybe", 0.0, None)
    bare = objective.answers(states(1, "joint"), [Example(id="3", image="3.jpg", text="")])[0]
    assert (bare.score, bare.target, bare.logprob) == (None, "", None)


def test_classification_loss_by_hand_and_answers_outside_the_labels() -> None:
    objective = ClassificationObjective(task="gqa", width=8, labels=["red", "blue"])
    fixed(objective, [math.log(3), 0.0])
    examples = [
        Example(id="1", image="1.jpg", text="", target="red"),
        Example(id="2", image="2.jpg", text="", target="blue"),
        Example(id="3", image="3.jpg", text="", target="purple"),
    ]
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert objective.loss(states(3, "joint"), examples).item() == pytest.approx(expected, rel=1e-5)
    assert objective.loss(states(1, "joint"), examples[2:]).item() == 0.0
    answers = objective.answers(states(3, "joint"), examples)
    assert [answer.score for answer in answers] == [1.0, 0.0, 0.0]
    assert answers[1].logprob == pytest.approx(math.log(0.25), rel=1e-5)
    assert answers[1].probability == pytest.approx(0.75, rel=1e-5)
    assert answers[2].logprob is None


def test_set_metric_answers_carry_the_probability_of_the_positive_class() -> None:
    objective = ClassificationObjective(task="hateful_memes", width=8, labels=["0", "1"], score="set")
    fixed(objective, [math.log(3), 0.0])
    answer = objective.answers(states(1, "joint"), [Example(id="1", image="1.jpg", text="", target="1")])[0]
    assert (answer.prediction, answer.target, answer.score) == ("0", "1", None)
    assert answer.probability == pytest.approx(0.25, rel=1e-5)


def contrast(logits: Tensor, belongs: Tensor) -> float:
    """Symmetric: images ask for texts, and texts for images."""
    return (soft_cross_entropy(logits, belongs) + soft_cross_entropy(logits.T, belongs.T)).item() / 2


def test_contrast_by_hand_with_two_captions_of_one_image() -> None:
    examples = [Example(id=str(k), image=image, text="") for k, image in enumerate(["a", "a", "b"])]
    belongs = own_mask(examples)
    assert belongs.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    rows = [
        -(math.log(math.e) + math.log(math.e**2)) / 2 + math.log(math.e + math.e**2 + 1),
        -(1 + 2) / 2 + math.log(math.e + math.e**2 + 1),
        -3 + math.log(2 + math.e**3),
    ]
    columns = [-1 + math.log(2 * math.e + 1), -2 + math.log(2 * math.e**2 + 1), -3 + math.log(2 + math.e**3)]
    expected = (sum(rows) / 3 + sum(columns) / 3) / 2
    assert contrast(logits, belongs) == pytest.approx(expected, rel=1e-5)
    single = torch.eye(3, dtype=torch.bool)
    plain = (F.cross_entropy(logits, torch.arange(3)) + F.cross_entropy(logits.T, torch.arange(3))) / 2
    assert contrast(logits, single) == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize(("negatives", "num_pairs"), [("both", 12), ("alternate", 6)])
def test_negatives_are_of_other_images_and_hard(negatives: str, num_pairs: int) -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4, negatives=negatives)  # type: ignore[arg-type]
    examples = [Example(id=str(k), image="aabbcc"[k], text="") for k in range(6)]
    shown, whole = states(6, *objective.streams), Alone(examples)
    pairs = objective.pairs(shown, whole, generator=torch.Generator().manual_seed(0))
    assert pairs[:6] == [(k, k, 1, pytest.approx(0.5 / 6)) for k in range(6)]
    drawn = pairs[6:]
    assert len(drawn) == num_pairs and {pair.label for pair in drawn} == {0}
    assert sum(pair.weight for pair in drawn) == pytest.approx(0.5)
    assert all(examples[pair.text].image != examples[pair.image].image for pair in drawn)
    again = objective.pairs(shown, whole, generator=torch.Generator().manual_seed(0))
    assert pairs == again
    similarity = objective.embed_images(shown["image"].pooled) @ objective.embed_texts(shown["text"].pooled).T
    foreign = similarity.masked_fill(own_mask(examples), -2)
    hardest = objective.pairs(shown, whole)[6:]
    assert hardest[0][:2] == (0, int(foreign[:, 0].argmax()))
    assert any(pair[:2] == (int(foreign[1].argmax()), 1) for pair in hardest)


def test_no_negatives_where_there_are_none_or_no_weight() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4)
    same = Alone([Example(id=str(k), image="a", text="") for k in range(3)])
    assert [pair.label for pair in objective.pairs(states(3, *objective.streams), same)] == [1, 1, 1]
    unweighted = RetrievalObjective(task="coco", width=8, shared=4, match_weight=0.0)
    mixed = Alone([Example(id=str(k), image="ab"[k], text="") for k in range(2)])
    assert unweighted.pairs(states(2, *objective.streams), mixed) == []


def test_matching_counts_own_pairs_and_negatives_alike() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4, match_weight=2.0)
    mixed = Alone([Example(id=str(k), image="ab"[k], text="") for k in range(2)])
    pairs = objective.pairs(states(2, *objective.streams), mixed)
    own, negatives = pairs[:2], pairs[2:]
    assert len(negatives) == 4
    assert objective.match_loss(torch.ones(2), own).item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-5)
    assert objective.match_loss(torch.ones(4), negatives).item() == pytest.approx(math.log1p(math.e), rel=1e-5)


def test_matching_trains_on_a_share_of_the_batch() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4, negatives="alternate", match_share=0.5)
    mixed = Alone([Example(id=str(k), image=str(k), text="") for k in range(8)])
    shown = states(8, *objective.streams)
    seen = set()
    for seed in range(20):
        pairs = objective.pairs(shown, mixed, generator=torch.Generator().manual_seed(seed))
        own, negatives = pairs[:4], pairs[4:]
        assert all(pair.text == pair.image for pair in own) and len(negatives) == 4
        taken = {pair.text for pair in own}
        assert len(taken) == 4 and all(taken & {pair.text, pair.image} for pair in negatives)
        assert sum(pair.weight for pair in own) == sum(pair.weight for pair in negatives) == 0.5
        seen |= taken
    assert seen == set(range(8))
    assert objective.describe()["match_share"] == 0.5
    with pytest.raises(TaskError, match="coco.match_share=0"):
        load_task("coco", match_share=0)


@dataclass(frozen=True)
class Part:
    """Some rows of a batch, whose other rows' embeddings are known."""

    examples: Sequence[Example]
    rows: Sequence[int]
    known: tuple[Tensor, Tensor]

    def gather(self, own: Tensor) -> Tensor:
        images, texts = self.known
        return images if torch.equal(own, images[list(self.rows)]) else texts


def test_parts_of_a_batch_make_up_its_contrast() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4)
    examples = [Example(id=str(k), image="aabcd"[k], text="") for k in range(5)]
    shown = states(5, *objective.streams)
    known = (objective.embed_images(shown["image"].pooled), objective.embed_texts(shown["text"].pooled))
    total = 0.0
    for rows in ([0, 2, 4], [1, 3]):
        own = {stream: Pooled(found.pooled[rows]) for stream, found in shown.items()}
        part = Part(examples, rows, known)
        total += objective.loss_of_rows(own, part).item() * len(rows) / 5
        assert objective.pairs(own, part) == objective.pairs(shown, Alone(examples))
    assert total == pytest.approx(objective.loss(shown, examples).item(), rel=1e-6)


def test_an_answer_outside_the_labels_does_not_count() -> None:
    objective = ClassificationObjective(task="gqa", width=8, labels=["yes", "no"])
    examples = [Example(id=str(k), image="a", text="", target=("yes", "maybe", "no")[k]) for k in range(3)]
    assert objective.counted(examples) == 2
    shown = states(3, "joint")
    parts = [objective.loss({"joint": Pooled(shown["joint"].pooled[k : k + 1])}, examples[k : k + 1]) for k in (0, 2)]
    assert objective.loss(shown, examples).item() == pytest.approx(sum(p.item() for p in parts) / 2, rel=1e-5)


def test_temperature_is_learned_and_bounded() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4)
    assert objective.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    examples = [Example(id=str(k), image="abc"[k], text="") for k in range(3)]
    objective.loss(states(3, *objective.streams), examples).backward()
    assert objective.log_scale.grad is not None and objective.log_scale.grad != 0
    torch.nn.init.constant_(objective.log_scale, 50.0)
    assert objective.scale.item() == 100.0


def test_retrieval_answers_of_a_batch() -> None:
    objective = RetrievalObjective(task="coco", width=8, shared=4)
    objective.text_projection.load_state_dict(objective.image_projection.state_dict())
    examples = [Example(id=str(k), image="aab"[k], text="") for k in range(3)]
    image = torch.randn(2, 1, 8)[[0, 0, 1]]
    answers = objective.answers({"image": Pooled(image), "text": Pooled(image)}, examples)
    assert [(answer.direction, answer.id, answer.rank) for answer in answers] == [
        ("i2t", "a", 1),
        ("i2t", "b", 1),
        ("t2i", "0", 1),
        ("t2i", "1", 1),
        ("t2i", "2", 1),
    ]


def _splits(folder: Path) -> list[tuple[str, Split]]:
    official.write_json(folder / "dataset_coco.json", official.coco())
    official.write_vqa(folder, "train2014", list(range(1, 21)))
    questions = {str(k): official.gqa_question(f"{k}", ("red", "blue")[k % 2]) for k in range(6)}
    official.write_json(folder / "train_balanced_questions.json", questions)
    official.write_lines(
        folder / "snli_ve_train.jsonl", [official.snli_record(image=f"{k}", number=k) for k in range(6)]
    )
    official.write_lines(folder / "train.jsonl", [official.meme(k, k % 2) for k in range(6)])
    names = ("coco", "vqa", "gqa", "snli_ve", "hateful_memes")
    return [(name, load_task(name).read(folder, "train")) for name in names]


class ToyModel:
    """Random but fixed codes of texts and images, summed, and a matching head: all that a step needs of a model."""

    def __init__(self) -> None:
        self.match_head = MlpHead(width=8, num_outputs=1)

    def encode(self, texts: Sequence[str] | None, images: Sequence[str] | None) -> Pooled:
        num = len(texts if texts is not None else images or ())
        total = torch.zeros(num, 2, 8)
        for keys in (texts, images):
            if keys is not None:
                codes = [torch.Generator().manual_seed(sum(map(ord, key))) for key in keys]
                total = total + torch.stack([torch.randn(2, 8, generator=code) for code in codes])
        return Pooled(total)


def step(model: ToyModel, objective: Objective, examples: Sequence[Example]) -> Tensor:
    texts, images = [e.text for e in examples], [e.image for e in examples]
    made: dict[Stream, Pooled] = {
        "joint": model.encode(texts, images),
        "text": model.encode(texts, None),
        "image": model.encode(None, images),
    }
    shown: Mapping[Stream, States] = {stream: made[stream] for stream in objective.streams}
    loss = objective.loss(shown, examples)
    pairs = objective.pairs(shown, Alone(examples), generator=torch.Generator().manual_seed(0))
    if pairs:
        joint = model.encode([texts[pair.text] for pair in pairs], [images[pair.image] for pair in pairs])
        loss = loss + objective.match_loss(model.match_head(joint.pooled)[:, 0], pairs)
    return loss


def test_the_documented_step_learns_every_task_and_reloads(tmp_path: Path) -> None:
    for name, split in _splits(tmp_path):
        torch.manual_seed(0)
        objective = load_task(name).objective(split, 8)
        examples = split.examples[:6]
        model = ToyModel()
        optimiser = torch.optim.AdamW([*objective.parameters(), *model.match_head.parameters()], lr=1e-2)
        losses = []
        for _ in range(25):
            optimiser.zero_grad()
            loss = step(model, objective, examples)
            loss.backward()
            assert all(weight.grad is not None for weight in objective.parameters()), name
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0], (name, losses[0], losses[-1])
        copy = load_objective(json.loads(json.dumps(objective.describe())))
        copy.load_state_dict(objective.state_dict())
        assert copy.task == name
        assert step(model, copy, examples).item() == step(model, objective, examples).item()


def test_priors_start_the_heads(tmp_path: Path) -> None:
    splits = dict(_splits(tmp_path))
    gqa = load_task("gqa").objective(splits["gqa"], 8)
    assert isinstance(gqa, ClassificationObjective)
    assert gqa.head.output.bias.exp().tolist() == pytest.approx([0.5, 0.5])
    vqa = load_task("vqa").objective(splits["vqa"], 8)
    assert isinstance(vqa, SoftTargetObjective)
    assert vqa.vocabulary.answers == ("yes",) and vqa.head.output.bias.sigmoid().item() == pytest.approx(
        0.9999
    )


def test_descriptions_that_do_not_fit() -> None:
    with pytest.raises(TaskError, match="unknown objective kind 'x'"):
        load_objective({"kind": "x"})
    with pytest.raises(TaskError, match="does not fit kind 'classification'"):
        load_objective({"kind": "classification", "task": "gqa"})
