"""SNLI-VE from `snli_ve_{train,dev,test}.jsonl`, the original release (not the relabelled 2.0 nor e-ViL's).

The hypothesis is `sentence2`; the premise is the image, so `sentence1`, the caption that it replaces, is
never handed on. The key of the image is spelled in three ways by different releases, two of which may carry
the extension.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_by, mean_score
from tasks.exports import write_text
from tasks.files import Record, find_file, load_json_lines
from tasks.paths import relative_image

IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")
LABELS = ("contradiction", "neutral", "entailment")  # METER's order; files are mapped by name


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
        "../flickr30k/images",
        "../flickr30k-images",
        "../flickr30k_images",
        "../flickr30k",
        "",
    )

    def source(self, folder: Path, split: str) -> Path:
        return find_file(folder, (f"snli_ve_{self.logical.get(split, split)}.jsonl",))

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        for record in load_json_lines(self.source(folder, split)):
            yield (_example(record),)

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.labels import label_objective

        return label_objective(self.name, train, width, labels=LABELS)

    def value(self, answers: Sequence[Answer]) -> float:
        return mean_score(answers)

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Accuracy by gold label."""
        return mean_by(answers, "label")

    def baselines(self, train: Split, test: Split) -> Baselines:
        from tasks.labels import label_baselines

        return label_baselines(train, test, chance=1 / len(LABELS))

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        """JSON lines of pairID and label: there is no official server, so the dataset's own keys are used."""
        rows = (json.dumps({"pairID": answer.id, "gold_label": answer.prediction}) for answer in answers)
        write_text(path, "".join(f"{row}\n" for row in rows))


def _example(record: Record) -> Example:
    present = [key for key in IMAGE_KEYS if key in record.fields]
    if not present:
        raise record.error(f"has none of the image keys {', '.join(IMAGE_KEYS)}")
    image = record.identifier(present[0]).removesuffix(".jpg")
    label = record.text("gold_label")
    if label not in LABELS:
        raise record.error(f"gold_label {ascii(label)[:60]} is none of {', '.join(LABELS)}")
    return Example(
        id=record.identifier("pairID"),
        image=relative_image(f"{image}.jpg", file=record.file, record=record.name),
        text=record.text("sentence2"),
        target=label,
        slices={"label": label},
    )
