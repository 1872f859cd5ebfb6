"""Vocabularies from the files by the documented rule or from a user's file; recipes; the benchmark at small scale."""

from __future__ import annotations

import json
from pathlib import Path

import official_files as official
import pytest

from tasks import TASKS, load_task
from tasks.base import Example
from tasks.bench import PARTS, WRITERS, bench
from tasks.build_vocabulary import main
from tasks.errors import DatasetError, TaskError
from tasks.gqa import Gqa
from tasks.objectives import SoftTargetObjective
from tasks.recipes import RECIPES
from tasks.vocabulary import read_vocabulary
from tasks.vqa import Vqa


def test_vqa_vocabulary_of_train_and_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine questions over both splits keep an answer; the spelling is normalised, commas are gone, "the" is empty."""
    said = {"train2014": ["the"] * 5 + ["Two"] * 5 + ["1,000"] * 9, "val2014": ["a"] * 4 + ["2"] * 4 + ["yes"] * 8}
    for source, answers in said.items():
        questions, annotations = official.vqa_files(list(range(1, len(answers) + 1)))
        rows = [official.vqa_annotation(k + 1, answers=(answer,) * 10) for k, answer in enumerate(answers)]
        official.write_json(tmp_path / f"v2_OpenEnded_mscoco_{source}_questions.json", questions)
        official.write_json(tmp_path / f"v2_mscoco_{source}_annotations.json", annotations | {"annotations": rows})
    file = tmp_path / "vocabulary.json"
    assert main(["vqa", str(tmp_path), str(file)]) == 0
    assert json.loads(file.read_text()) == ["", "2", "1000"]
    assert capsys.readouterr().out.startswith("3 answers")
    objective = Vqa(vocabulary_file=str(file)).objective(load_task("vqa").read(tmp_path, "train2014"), 8)
    assert isinstance(objective, SoftTargetObjective) and objective.vocabulary.answers == ("", "2", "1000")
    assert main(["vqa", str(tmp_path), str(file), "--min-count", "20"]) == 2
    said = "--min-count=20 leaves no answer: the most frequent one has 9 questions; nearest: --min-count=9"
    assert said in capsys.readouterr().err
    with pytest.raises(TaskError, match=r"task_options\.mine\.min_count=20 leaves .*\.min_count=9, .* evaluate\.limit"):
        task = load_task("mine=vqa", min_count=20)
        task.objective(task.read(tmp_path, "train2014"), 8)


def test_gqa_vocabulary_is_every_answer_of_balanced_train_and_val(tmp_path: Path) -> None:
    for source, answers in {"train": ["red", "cup"], "val": ["cup", "bag"], "testdev": ["dog"]}.items():
        questions = {f"{source}{k}": official.gqa_question(answer=answer) for k, answer in enumerate(answers)}
        official.write_json(tmp_path / f"{source}_balanced_questions.json", questions)
    assert main(["gqa", str(tmp_path), str(tmp_path / "out.json")]) == 0
    task = Gqa(vocabulary_file=str(tmp_path / "out.json"))
    assert task.vocabulary(task.read(tmp_path, "test")).answers == ("red", "cup", "bag")


@pytest.mark.parametrize("text", ["yes\n\nno\n", '["yes", "", "no"]', '{"no": 2, "yes": 0, "": 1}'])
def test_a_users_own_vocabulary(tmp_path: Path, text: str) -> None:
    assert read_vocabulary(official.write_text(tmp_path / "x", text)).answers == ("yes", "", "no")


@pytest.mark.parametrize("text", ['{"no": 2, "yes": 0}', "[1]", '{"a": true, "b": 0}', "[", '{"a": 0, "a": 1}'])
def test_vocabulary_files_at_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        read_vocabulary(official.write_text(tmp_path / "x", text))
    with pytest.raises(TaskError, match="twice"):
        read_vocabulary(official.write_text(tmp_path / "x", "a\na\n"))


def test_answers_outside_the_vocabulary_count_against_the_model(tmp_path: Path) -> None:
    """A model that can only say red scores 0 where blue is right, and the question still counts."""
    official.write_json(tmp_path / "v.json", ["red"])
    official.write_vqa(tmp_path, "val2014", [7])
    split = Vqa().read(tmp_path, "test")
    objective = Vqa(vocabulary_file=str(tmp_path / "v.json")).objective(split, 8)
    import torch

    class Shown:
        pooled = torch.zeros(1, 1, 8)

    examples: list[Example] = split.examples
    (answer,) = objective.answers({"joint": Shown()}, examples)
    assert (answer.prediction, answer.score, answer.logprob) == ("red", 0.0, None)


def test_every_task_has_a_recipe_with_its_source() -> None:
    assert set(RECIPES) == set(TASKS)
    for recipes in RECIPES.values():
        assert all(recipe.source and 0 < recipe.lr < 1e-3 and recipe.batch_size > 0 for recipe in recipes)


@pytest.mark.parametrize(
    ("task", "model", "expected"),
    [  # lr, batch, length, factors of head and fusion, decay: the specification's section 4
        ("vqa", "METER", (5e-6, 512, "10 epochs", 50, 5, 0.01)),
        ("vqa", "ViLT", (1e-4, 256, "10 epochs", 10, 1, 0.01)),
        ("vqa", "LXMERT", (5e-5, 32, "4 epochs", 1, 1, 0.01)),
        ("gqa", "LXMERT", (1e-5, 32, "4 epochs", 1, 1, 0.01)),
        ("snli_ve", "METER", (2e-6, 64, "5 epochs", 10, 5, 0.01)),
        ("flickr30k", "METER", (5e-6, 512, "10 epochs", 5, 5, 0.01)),
        ("flickr30k", "ALBEF", (1e-5, 32, "10 epochs", 1, 1, 0.02)),
        ("coco", "METER", (5e-6, 512, "10 epochs", 5, 5, 0.01)),
        ("coco", "ALBEF", (1e-5, 32, "5 epochs", 1, 1, 0.02)),
        ("hateful_memes", "VisualBERT", (5e-5, 64, "22000 steps", 1, 1, 0.01)),
    ],
)
def test_recipes_are_the_published_ones(task: str, model: str, expected: tuple[object, ...]) -> None:
    recipe = next(recipe for recipe in RECIPES[task] if recipe.model == model)
    found = (recipe.lr, recipe.batch_size, recipe.length, recipe.head_lr, recipe.fusion_lr, recipe.weight_decay)
    assert found == expected


def test_benchmark_measures_what_it_wrote(tmp_path: Path) -> None:
    for part, num in {"vqa": 887, "gqa": 2000}.items():
        place = tmp_path / part
        place.mkdir()
        WRITERS[part](place, scale=0.002)
        assert PARTS[part](place, 0.002) == num
    (found,) = bench(scale=0.002, parts=("gqa",))  # in a process of its own
    assert found["records"] == 2000
    assert found["cpu_seconds"] < found["limit_seconds"] and 0 < found["peak_gb"] < found["limit_gb"]
