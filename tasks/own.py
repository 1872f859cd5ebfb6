"""Generic readers: a user's own dataset in JSONL, CSV, JSON or Parquet, without code.

A dataset is `train`, `val` and `test` files (such as `train.jsonl`), or files whose records have a `split`. Records
have `image` (relative to the folder or its `images/`), optionally `id`, and `slice_NAME` columns for parts of the set:

- `classification`: `label`, optionally `text`;
- `questions`: `question` and `answer` (worth 1), or `answers`: {answer: weight}, or a list of what annotators said,
  where an answer that n of N gave is worth min(1, n / min(3, N));
- `pairs`: `caption`, a string or a list; several rows may share an image. Ids are image#number.

In CSV, lists and objects are written as JSON. See docs/own_task.md.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.caption_rows import LAVIS, captioned_images
from tasks.discovery import Found, Shape, find_tables, split_of
from tasks.embedded import Embedded
from tasks.errors import TaskError
from tasks.files import Record, decode
from tasks.karpathy import Retrieval, named_part
from tasks.paths import relative_image
from tasks.predictions import Prediction
from tasks.soft_answers import answer_score, answer_targets, read_weights
from tasks.vocabulary import Vocabulary, label_vocabulary

PART = {"select": "val"}
IMAGE_FOLDERS = ("", "images", "..")


def own_tables(folder: Path, split: str, keys: tuple[str, ...]) -> list[Found]:
    """The files of a split: by their name, or by the `split` of their records."""
    part = PART.get(split, split)
    shapes = (Shape("records with a split", (*keys, "split"), split_key="split"), Shape("records", keys))
    expected = tuple(f"{part}.{suffix}" for suffix in ("jsonl", "csv", "json", "parquet"))
    return find_tables(folder, part=part, part_of=named_part, shapes=shapes, expected=expected)


def own_rows(tables: Sequence[Found], split: str) -> Iterator[Record]:
    """The split's rows. Raises DatasetError where a record names no split that there is."""
    part = PART.get(split, split)
    for found in tables:
        for record in found.table.rows():
            key = found.shape.split_key
            if key is None or split_of(record, key, Own.official) == part:
                yield record


@dataclass(frozen=True)
class Own(Task):
    """What the generic tasks with one record an example share."""

    logical: ClassVar = {"train": "train", "select": "val", "test": "test"}
    official = ("train", "val", "test")
    image_folders = IMAGE_FOLDERS
    keys: ClassVar[tuple[str, ...]]

    def tables(self, folder: Path, split: str) -> list[Found]:
        return own_tables(folder, split, self.keys)

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        for number, record in enumerate(own_rows(self.tables(folder, split), split)):
            yield (self.example(record, record.identifier("id") if record.present("id") else str(number)),)

    @abstractmethod
    def example(self, record: Record, key: str) -> Example:
        """The example of a row."""

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """The metric by every slice."""
        names = dict.fromkeys(name for answer in answers for name in answer.slices)
        return {key: value for name in names for key, value in mean_by(answers, name).items()}


@dataclass(frozen=True)
class Classification(Own):
    """An image, and a text if the records have one, to be given one label of those in the training split."""

    name = "classification"
    metric = "accuracy"
    keys = ("image", "label")

    def example(self, record: Record, key: str) -> Example:
        label = record.identifier("label") if record.present("label") else None
        return Example(
            id=key,
            image=_image(record),
            text=record.text("text") if record.present("text") else "",
            target=label,
            slices=_slices(record) | ({} if label is None else {"label": label}),
            extra=_place(record),
        )

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=self.labels(train).answers)

    def labels(self, train: Split) -> Vocabulary:
        """Every label of the training split, in alphabetical order."""
        return label_vocabulary(sorted({str(e.target) for e in train.examples if e.target is not None}))

    def baselines(self, train: Split, test: Split) -> Baselines:
        from tasks.labels import label_baselines

        return label_baselines(train, test, chance=1 / len(self.labels(train)))


@dataclass(frozen=True)
class Questions(Own):
    """Questions whose answers have weights; any answer of the training split can be given.

    Attributes:
        min_count: how many training questions must have an answer with some weight for it to enter the vocabulary.
    """

    name = "questions"
    metric = "answer_score"
    keys = ("image", "question", "answer|answers")

    min_count: int = 1

    def example(self, record: Record, key: str) -> Example:
        weights = _weights(record)
        extra: dict[str, object] = {}
        if weights is not None:
            extra["weights"] = weights
        if weights:
            extra["consensus"] = max(weights, key=lambda answer: weights[answer])
        return Example(
            id=key,
            image=_image(record),
            text=record.text("question"),
            target=None if weights is None else (),
            slices=_slices(record),
            extra=extra | _place(record),
        )

    def vocabulary(self, train: Split) -> Vocabulary:
        """Answers in order of first occurrence."""
        counts: Counter[str] = Counter()
        for example in train.examples:
            weights = example.extra.get("weights")
            if isinstance(weights, Mapping):
                counts.update(str(answer) for answer, weight in weights.items() if weight > 0)
        kept = tuple(answer for answer, count in counts.items() if count >= self.min_count)
        if not kept:
            raise TaskError(f"split {train.name!r} of {self.name!r} has no answer of {self.min_count} questions")
        return Vocabulary(kept)

    def objective(self, train: Split, width: int) -> Objective:
        import torch

        from tasks.objectives import SoftTargetObjective

        vocabulary = self.vocabulary(train)
        prior = torch.zeros(len(vocabulary))
        for example in train.examples:
            for column, value in answer_targets(example, vocabulary).items():
                prior[column] += value / len(train.examples)
        return SoftTargetObjective(task=self.name, width=width, vocabulary=vocabulary.answers, prior=prior)

    def judge(self, example: Example, prediction: Prediction) -> Answer:
        """Worth the weight of the answer."""
        return Answer(
            id=example.id,
            image=example.image,
            direction="",
            prediction=prediction.text,
            target=str(example.extra.get("consensus", "")),
            score=answer_score(prediction.text, example),
            probability=prediction.probability,
            logprob=None,
            rank=None,
            slices=example.slices,
        )

    def baselines(self, train: Split, test: Split) -> Baselines:
        vocabulary = self.vocabulary(train)
        totals = [0.0] * len(vocabulary)
        for example in train.examples:
            for column, value in answer_targets(example, vocabulary).items():
                totals[column] += value
        majority = vocabulary.answers[totals.index(max(totals))]
        scores = [answer_score(majority, example) for example in test.examples]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            raise TaskError(f"baselines need answers, and {test.name!r} of {self.name!r} has questions without")
        return Baselines(chance=1 / len(vocabulary), majority=sum(known) / len(known))


@dataclass(frozen=True)
class Pairs(Retrieval):
    """Images and captions, retrieved both ways."""

    name = "pairs"
    file_names = ()
    image_folders = IMAGE_FOLDERS

    def tables(self, folder: Path, split: str) -> list[Found]:
        part = PART.get(split, split)
        shapes = (Shape("pairs with a split", ("image", "caption", "split"), split_key="split"), LAVIS)
        expected = tuple(f"{part}.{suffix}" for suffix in ("jsonl", "csv", "json", "parquet"))
        return find_tables(folder, part=part, part_of=named_part, shapes=shapes, expected=expected)

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        yield from captioned_images(self.tables(folder, split), (PART.get(split, split),), flat=False)


def _image(record: Record) -> str:
    value = record.get("image")
    path = record.record("image").text("path") if isinstance(value, dict) else record.text("image")
    return relative_image(path, file=record.file, record=record.name)


def _place(record: Record) -> dict[str, object]:
    return {} if record.row is None else {"embedded": Embedded(record.file, record.row)}


def _slices(record: Record) -> dict[str, str]:
    return {
        name.removeprefix("slice_"): record.identifier(name)
        for name in record.fields
        if name.startswith("slice_") and record.present(name)
    }


def _weights(record: Record) -> dict[str, float] | None:
    """Weights of the answers; None on a split without answers."""
    key = record.present("answers", "answer")
    if key is None:
        return None
    value = record.get(key)
    if isinstance(value, str) and value[:1] in ("[", "{"):  # a CSV cell
        value = decode(value, file=record.file, record=record.name)
        record = Record(record.fields | {key: value}, file=record.file, name=record.name, row=record.row)
    if isinstance(value, dict):
        return read_weights(record, key)
    if not isinstance(value, list):
        return {record.identifier(key): 1.0}
    said = record.texts(key)
    if not said:
        raise record.error(f"{key!r} is empty")
    return {answer: min(1.0, count / min(3, len(said))) for answer, count in Counter(said).items()}
