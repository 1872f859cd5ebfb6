"""SNLI-VE from `snli_ve_{train,dev,test}.jsonl`, the original release, or from its Hub and LAVIS/ALBEF mirrors.

The hypothesis is `sentence2`; the premise is the image, so `sentence1`, the caption that it replaces, is never handed
on. The key of the image is spelled in three ways by different releases, two of which may carry the extension. Label ids
conflict between releases, so labels are mapped by name; a mirror that has ids alone is read by the order that it
documents. The corrected sets (SNLI-VE-2.0, e-ViL) are different data: `tasks.check` tells them by their counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.discovery import Found, Shape, find_tables, shard_of
from tasks.embedded import Embedded
from tasks.exports import write_text
from tasks.files import Record
from tasks.paths import relative_image
from tasks.predictions import Prediction, read_entries

IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")
LABELS = ("contradiction", "neutral", "entailment")  # METER's order; files are mapped by name
OFFICIAL = Shape("official JSONL", ("gold_label", "sentence2"))
HUB = Shape("Hub table", ("premise", "hypothesis", "label"))
LAVIS = Shape("LAVIS/ALBEF JSON", ("image", "sentence", "label"))
ORDERS = {HUB.name: ("entailment", "neutral", "contradiction"), LAVIS.name: LABELS}
NAMED_PART = re.compile(r"(?:^|[^a-z])(train|validation|val|dev|test)(?:[^a-z]|$)")
DIGITS = re.compile(r"[0-9]")


@dataclass(frozen=True)
class SnliVe(Task):
    """Does the image entail the hypothesis, contradict it, or leave it open?"""

    name = "snli_ve"
    metric = "accuracy"
    logical: ClassVar = {"train": "train", "select": "dev", "test": "test"}
    official = ("train", "dev", "test")
    image_folders = (
        "flickr30k-images",
        "flickr30k_images",
        "images",
        "../flickr30k/flickr30k-images",
        "../flickr30k/flickr30k_images",
        "../flickr30k/flickr30k_images/flickr30k_images",
        "../flickr30k/images",
        "../flickr30k-images",
        "../flickr30k_images",
        "../flickr30k",
        "",
    )

    def tables(self, folder: Path, split: str) -> list[Found]:
        part = self.logical.get(split, split)
        name = (f"snli_ve_{part}.jsonl",)
        return find_tables(folder, part=part, part_of=_named_part, shapes=(OFFICIAL, HUB, LAVIS), expected=name)

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        number = 0
        for found in self.tables(folder, split):
            for record in found.table.rows():
                yield (_example(record, found.shape, number),)
                number += 1

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=LABELS)

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Accuracy by gold label."""
        return mean_by(answers, "label")

    def chance(self, test: Split) -> float:
        """One of three."""
        return 1 / len(LABELS)

    def baselines(self, train: Split, test: Split) -> Baselines:
        from tasks.labels import label_baselines

        return label_baselines(train, test, chance=self.chance(test))

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """JSON lines of pairID and label: there is no official server, so the dataset's own keys are used."""
        rows = (json.dumps({"pairID": answer.id, "gold_label": answer.prediction}) for answer in answers)
        write_text(path, "".join(f"{row}\n" for row in rows))

    def predictions(self, path: Path) -> dict[str, Prediction]:
        return read_entries(path, key="pairID", value="gold_label")


def _named_part(relative: str) -> str | None:
    found = NAMED_PART.search(shard_of(PurePosixPath(relative))[1])
    return {"validation": "dev", "val": "dev"}.get(found[1], found[1]) if found else None


def _example(record: Record, shape: Shape, number: int) -> Example:
    label = _label(record, "gold_label" if shape is OFFICIAL else "label", ORDERS.get(shape.name, ()))
    if shape is OFFICIAL:
        key, text = record.identifier("pairID"), record.text("sentence2")
        image_key = record.present(*IMAGE_KEYS)
        if image_key is None:
            raise record.error(f"has none of the image keys {', '.join(IMAGE_KEYS)}")
        image = record.identifier(image_key).removesuffix(".jpg")
    else:
        text = record.text("hypothesis" if shape is HUB else "sentence")
        image_key = "filename" if "filename" in record.fields else "image"
        image = record.record("image").text("path") if _is_struct(record, image_key) else record.identifier(image_key)
        image = PurePosixPath(relative_image(image, file=record.file, record=record.name)).name.removesuffix(".jpg")
        key = f"{image}.jpg#{number}"
    return Example(
        id=key,
        image=relative_image(f"{image}.jpg", file=record.file, record=record.name),
        text=text,
        target=label,
        slices={"label": label},
        extra={} if record.row is None else {"embedded": Embedded(record.file, record.row)},
    )


def _is_struct(record: Record, key: str) -> bool:
    return key == "image" and isinstance(record.get(key), dict)


def _label(record: Record, key: str, order: Sequence[str]) -> str:
    """The label's name; an id is looked up in the order that the format documents."""
    label = record.identifier(key) if order else record.text(key)
    if order and DIGITS.fullmatch(label) and int(label) < len(order):
        label = order[int(label)]
    if label not in LABELS:
        raise record.error(f"{key} {ascii(label)[:60]} is none of {', '.join(LABELS)}")
    return label
