"""GQA from its official question files, `train_all` as a folder of ten included.

Balanced splits are the default; testdev is the logical `test`. Ids of questions and images stay strings (they
have leading zeros and letters). Unbalanced (`*_all`) splits are read for consistency, which scores entailed
questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.errors import DatasetError
from tasks.exports import write_text
from tasks.files import Record, find_file, load_json, valid_text
from tasks.gqa_metrics import Choices, GqaQuestion, GqaScores, gqa_scores
from tasks.paths import relative_image
from tasks.vocabulary import Vocabulary, label_vocabulary

SOURCE = {"train": "train_balanced", "select": "val_balanced", "test": "testdev_balanced"}
OFFICIAL = tuple(
    [
        f"{split}_{part}"
        for split in ("train", "val", "testdev", "test", "challenge")
        for part in ("balanced", "all")
    ]
    + ["submission_all"]
)
ANSWERED = ("train", "val", "testdev")
FOLDERS = ("", "questions1.2", "questions")


@dataclass(frozen=True)
class Gqa(Task):
    """Compositional question answering; exact match with one answer."""

    name = "gqa"
    metric = "accuracy"
    logical: ClassVar = SOURCE
    official = OFFICIAL
    image_folders = ("images", "", "../images", "../gqa/images")

    def source(self, folder: Path, split: str) -> Path:
        return question_source(folder, SOURCE.get(split, split))

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        for key, record in question_records(folder, SOURCE.get(split, split)):
            yield (_example(key, record, answered=SOURCE.get(split, split).split("_")[0] in ANSWERED),)

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=self.vocabulary(train).answers)

    def vocabulary(self, train: Split) -> Vocabulary:
        """Every distinct answer of the split."""
        return label_vocabulary(
            example.target for example in train.examples if isinstance(example.target, str)
        )

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Open and binary accuracy and those by type; `scores` has the metrics that need question files."""
        parts = {
            "open": [answer for answer in answers if answer.slices.get("structural") == "query"],
            "binary": [answer for answer in answers if answer.slices.get("structural", "query") != "query"],
        }
        found = {name: mean_score(part) for name, part in parts.items() if part}
        return found | mean_by(answers, "structural") | mean_by(answers, "semantic")

    def scores(self, folder: Path, split: str, predictions: Mapping[str, str]) -> GqaScores:
        """Every official metric, with consistency where `*_all` was predicted, choices where the folder has
        them.

        Args:
            split: a balanced split with public answers.
            predictions: question id -> answer; may hold unbalanced questions as well.
        """
        source = SOURCE.get(split, split)
        family = source.split("_")[0]
        questions = read_questions(folder, source)
        wanted = {other for question in questions.values() for other in question.entailed}
        if source.endswith("balanced") and (wanted & predictions.keys()) - questions.keys():
            questions = read_questions(folder, f"{family}_all") | questions
        return gqa_scores(questions, predictions, read_choices(folder, family))

    def baselines(self, train: Split, test: Split) -> Baselines:
        """Chance is 1 / vocabulary; the prior is the most frequent training answer of the question's detailed
        type.
        """
        from tasks.labels import label_baselines

        return label_baselines(train, test, chance=1 / len(self.vocabulary(train)), kind="detailed")

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The predictions file that `eval.py` and the server take."""
        write_text(
            path,
            json.dumps([{"questionId": answer.id, "prediction": answer.prediction} for answer in answers]),
        )


def question_source(folder: Path, source: str) -> Path:
    """The file of an official split, or the folder of its numbered files."""
    return find_file(folder, (f"{source}_questions.json", f"{source}_questions"), under=FOLDERS)


def question_records(folder: Path, source: str) -> Iterator[tuple[str, Record]]:
    """Official question records by id, from a file or from a folder of numbered files."""
    whole = question_source(folder, source)
    files = [whole]
    if whole.is_dir():
        files = sorted(whole.glob(f"{source}_questions_*.json"), key=lambda file: (len(file.name), file.name))
        if not files:
            raise DatasetError(f"holds no {source}_questions_0.json and so on", file=whole)
    for file in files:
        outer = Record(load_json(file, repeated_keys="refuse"), file=file, name=None)
        for key in outer.fields:
            valid_text(key, what="a question id", file=file, record=ascii(key))
            yield key, Record(outer.fields[key], file=file, name=key)


def read_questions(folder: Path, source: str) -> dict[str, GqaQuestion]:
    """What the official metrics need of each question of an official split with answers."""
    return {key: _question(record) for key, record in question_records(folder, source)}


def read_choices(folder: Path, family: str) -> dict[str, Choices] | None:
    """The choices of "train" or "val"; None where there is no such file (testdev has none)."""
    try:
        file = find_file(folder, (f"{family}_choices.json",), under=(*FOLDERS, "eval"))
    except DatasetError:
        return None
    outer = Record(load_json(file, repeated_keys="refuse"), file=file, name=None)
    choices = {}
    for key in outer.fields:
        record = Record(outer.fields[key], file=file, name=key)
        choices[key] = Choices(
            valid=frozenset(_texts(record, "valid")), plausible=frozenset(_texts(record, "plausible"))
        )
    return choices


def _example(key: str, record: Record, *, answered: bool) -> Example:
    image = relative_image(f"{record.identifier('imageId')}.jpg", file=record.file, record=key)
    if not answered:
        return Example(id=key, image=image, text=record.text("question"))
    types = record.record("types")
    return Example(
        id=key,
        image=image,
        text=record.text("question"),
        target=record.text("answer"),
        slices={"structural": types.text("structural"), "semantic": types.text("semantic")},
        extra={"detailed": types.text("detailed")},
    )


def _question(record: Record) -> GqaQuestion:
    types, groups = record.record("types"), record.record("groups")
    balanced = record.get("isBalanced")
    if not isinstance(balanced, bool):
        raise record.error("'isBalanced' must be true or false")
    return GqaQuestion(
        text=record.text("question"),
        answer=record.text("answer"),
        structural=types.text("structural"),
        semantic=types.text("semantic"),
        detailed=types.text("detailed"),
        balanced=balanced,
        group=None if groups.get("global") is None else groups.text("global"),
        entailed=tuple(_texts(record, "entailed")),
        steps=len(record.items("semantic")),
    )


def _texts(record: Record, key: str) -> list[str]:
    return [
        valid_text(item, what=f"an item of {key!r}", file=record.file, record=record.name)
        for item in record.items(key)
    ]
