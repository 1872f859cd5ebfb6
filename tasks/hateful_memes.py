"""Hateful Memes from the JSONL files of either phase (or their Hub mirror, or CSV), with its set-level metric.

Phase 2 has train, dev_seen, test_seen, dev_unseen and test_unseen; phase 1 has train, dev and test, of which
dev and test stand in for the seen splits when those are absent (phase 1's test has no labels, so it can be
predicted but not scored). Mirrors merge seen and unseen under those names, or mean the unseen by them: a file with
more records than the seen split has is refused. The image is named by `img`, because ids are not zero-padded as file
names are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task
from tasks.discovery import Found, Shape, find_tables, parts_named, shard_of
from tasks.embedded import Embedded
from tasks.errors import DatasetError, TaskError
from tasks.files import Record
from tasks.official_scores import OfficialScores
from tasks.paths import relative_image
from tasks.predictions import Prediction, read_meme_csv, write_meme_csv
from tasks.published import SIZES

LABELS = ("0", "1")  # "1" is hateful
SOURCES = {"train": ("train",), "select": ("dev_seen", "dev"), "test": ("test_seen", "test")}
STANDS_FOR = {"dev": "dev_seen", "test": "test_seen"}
SHAPES = (
    Shape("official JSONL", ("id", "img", "text"), containers=("lines", "list")),
    Shape("mirror as table", ("id", "img|image", "text")),
)
NAMED_PART = re.compile(r"(?:^|[^a-z])(train|(?:dev|test)_(?:un)?seen|dev|validation|val|test)(?:[^a-z]|$)")


@dataclass(frozen=True)
class HatefulMemes(Task):
    """Is the meme, image and text together, hateful? Scored by the area under the ROC curve."""

    name = "hateful_memes"
    metric = "auroc"
    logical: ClassVar = {"train": "train", "select": "dev_seen", "test": "test_seen"}
    official = ("train", "dev_seen", "test_seen", "dev_unseen", "test_unseen", "dev")
    image_folders = ("", "data", "../hateful_memes")

    def tables(self, folder: Path, split: str) -> list[Found]:
        parts = SOURCES.get(split, (split,))
        names = tuple(f"{name}.jsonl" for name in parts)
        present = parts_named(folder, _named_part)
        part = next((part for part in parts if part in present), parts[0])
        found = find_tables(folder, part=part, part_of=_named_part, shapes=SHAPES, expected=names)
        if part in STANDS_FOR:
            _check_stand_in(found, STANDS_FOR[part])
        return found

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        for found in self.tables(folder, split):
            for record in found.table.rows():
                yield (_example(record),)

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=LABELS, score="set")

    def value(self, answers: Sequence[Answer]) -> float:
        """AUROC of P(hateful) over the whole set."""
        targets, probabilities = labelled(answers)
        return auroc(targets, probabilities)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Accuracy at one half."""
        from sklearn.metrics import accuracy_score  # type: ignore[import-untyped]

        targets, probabilities = labelled(answers)
        return {"accuracy": float(accuracy_score(targets, [int(p > 0.5) for p in probabilities]))}

    def chance(self, test: Split) -> float:
        """A constant separates nothing."""
        return 0.5

    def baselines(self, train: Split, test: Split) -> Baselines:
        """A constant separates nothing: one half, whichever label it names."""
        return Baselines(chance=0.5, majority=0.5)

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """The submission CSV: id, proba, label."""
        write_meme_csv(answers, path)

    def predictions(self, path: Path) -> dict[str, Prediction]:
        return read_meme_csv(path)

    def official_scores(self, folder: Path, data: Split, predictions: Mapping[str, Prediction]) -> OfficialScores:
        """Accuracy at one half; that of the stated labels beside it where they are not those of the probabilities."""
        known = {example.id: str(example.target) for example in data.examples if example.target is not None}
        halved = {key: str(int((predictions[key].probability or 0.0) > 0.5)) for key in known}
        shares = {"accuracy": {key: float(halved[key] == target) for key, target in known.items()}}
        if any(predictions[key].text != halved[key] for key in known):
            stated = {key: float(predictions[key].text == target) for key, target in known.items()}
            shares["accuracy_of_stated_labels"] = stated
        return OfficialScores(shares=shares)

    def judge(self, example: Example, prediction: Prediction) -> Answer:
        """Without a score of its own, since the metric is of the set."""
        return replace(super().judge(example, prediction), score=None)


def auroc(targets: Sequence[int], probabilities: Sequence[float]) -> float:
    """Area under the ROC curve, ties counting one half.

    Raises:
        TaskError: only one class is present, so the area is undefined.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(targets)) < 2:
        raise TaskError(
            f"AUROC needs both classes, but all {len(targets)} targets are {sorted(set(targets))}"
        )
    return float(roc_auc_score(targets, probabilities))


def labelled(answers: Sequence[Answer]) -> tuple[list[int], list[float]]:
    """Targets and P(hateful) of answers. Raises TaskError when an answer lacks one of them."""
    targets, probabilities = [], []
    for answer in answers:
        if answer.target not in LABELS or answer.probability is None:
            raise TaskError(
                f"answer {answer.id!r} cannot be scored: target {answer.target!r}, "
                f"probability {answer.probability}"
            )
        targets.append(int(answer.target))
        probabilities.append(answer.probability)
    return targets, probabilities


def _named_part(relative: str) -> str | None:
    found = NAMED_PART.search(shard_of(PurePosixPath(relative))[1])
    return {"validation": "dev", "val": "dev"}.get(found[1], found[1]) if found else None


def _check_stand_in(found: Sequence[Found], part: str) -> None:
    """Raises DatasetError if a file named dev or test holds more records than the seen split that it stands for."""
    size = SIZES["hateful_memes"][part][0] or 0
    count = sum(1 for table in found for _ in table.table.rows())
    if count > size:
        problem = (
            f"holds {count} records, more than the {size} of {part} that it would stand for: give each official split a"
            f" file of its own name, such as {part}.jsonl (tasks.fetch does)"
        )
        raise DatasetError(problem, file=found[0].file)


def _example(record: Record) -> Example:
    target = None
    if record.present("label"):
        target = record.identifier("label")
        if target not in LABELS:
            raise record.error(f"label {ascii(target)[:60]} is neither 0 nor 1")
    key = "img" if isinstance(record.fields.get("img"), str) else "image"
    image = record.record(key).text("path") if isinstance(record.fields.get(key), dict) else None
    return Example(
        id=record.identifier("id"),
        image=relative_image(image or record.text(key), file=record.file, record=record.name),
        text=record.text("text"),
        target=target,
        extra={} if record.row is None else {"embedded": Embedded(record.file, record.row)},
    )
