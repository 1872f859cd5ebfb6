"""Hateful Memes from the JSONL files of either phase (or their Hub mirror, or CSV), with its set-level metric.

Phase 2 has train, dev_seen, test_seen, dev_unseen and test_unseen; phase 1 has train, dev and test, of which
dev and test stand in for the seen splits when those are absent (phase 1's test has no labels, so it can be
predicted but not scored). The image is named by `img`, because ids are not zero-padded as file names are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task
from tasks.discovery import Found, Shape, annotation_files, find_tables
from tasks.embedded import Embedded
from tasks.errors import TaskError
from tasks.exports import write_text
from tasks.files import Record
from tasks.paths import relative_image

LABELS = ("0", "1")  # "1" is hateful
SOURCES = {"train": ("train",), "select": ("dev_seen", "dev"), "test": ("test_seen", "test")}
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
        for part in parts:
            if any(_named_part(file.name.lower()) == part for file in annotation_files(folder)):
                return find_tables(folder, part=part, part_of=_named_part, shapes=SHAPES, expected=names)
        return find_tables(folder, part=parts[0], part_of=_named_part, shapes=SHAPES, expected=names)

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
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("id", "proba", "label"))
        for answer in answers:
            writer.writerow((answer.id, repr(answer.probability), answer.prediction))
        write_text(path, buffer.getvalue())


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
    found = NAMED_PART.search(relative.rpartition("/")[2])
    return {"validation": "dev", "val": "dev"}.get(found[1], found[1]) if found else None


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
