"""Flickr30k and MSCOCO retrieval from Karpathy's `dataset_flickr30k.json` and `dataset_coco.json`.

One official record is an image with its captions; it becomes one example a caption, with the caption's
`sentid` as id. All captions of an image are kept (some COCO images have six or seven), and `restval` belongs
to train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_score
from tasks.errors import TaskError
from tasks.files import Record, find_file, load_json
from tasks.paths import relative_image
from tasks.retrieval_metrics import CUTOFFS, chance_mean_recall

OFFICIAL = ("train", "restval", "val", "test")
PARTS = {"train": ("train", "restval"), "select": ("val",)}


@dataclass(frozen=True)
class Retrieval(Task):
    """Image-text retrieval both ways; the metric is the mean of recall at 1, 5, 10 in both directions (rsum /
    600).

    Attributes:
        shared: width of the shared image-text space.
        temperature: where the learned temperature starts.
        match_weight: weight of matching beside contrast.
        negatives: which hard negatives matching gets for each example.
    """

    metric = "mean_recall"
    logical: ClassVar = {"train": "train + restval", "select": "val", "test": "test"}
    official = OFFICIAL
    file_name: ClassVar[str]

    shared: int = 256
    temperature: float = 0.07
    match_weight: float = 1.0
    negatives: Literal["both", "alternate"] = "both"

    def source(self, folder: Path, split: str) -> Path:
        return find_file(folder, (self.file_name,))

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        file = self.source(folder, split)
        outer = Record(load_json(file), file=file, name=None)
        wanted = PARTS.get(split, (split,))
        for position, item in enumerate(outer.items("images")):
            record = Record(item, file=file, name=f"images[{position}]")
            part = record.text("split")
            if part not in OFFICIAL:
                raise record.error(f"split {part!r} is none of {', '.join(OFFICIAL)}")
            if part in wanted:
                yield self._captions(record)

    def _captions(self, record: Record) -> list[Example]:
        name = record.text("filename")
        if "filepath" in record.fields:
            name = f"{record.text('filepath')}/{name}"
        image = relative_image(name, file=record.file, record=record.name)
        sentences = record.records("sentences")
        if not sentences:
            raise record.error("an image without captions")
        return [
            Example(id=sentence.identifier("sentid"), image=image, text=sentence.text("raw"))
            for sentence in sentences
        ]

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.contrast import RetrievalObjective

        return RetrievalObjective(
            task=self.name,
            width=width,
            shared=self.shared,
            temperature=self.temperature,
            match_weight=self.match_weight,
            negatives=self.negatives,
        )

    def value(self, answers: Sequence[Answer]) -> float:
        """Mean of the two directions' mean recalls."""
        return sum(mean_score(part) for part in _directions(answers).values()) / 2

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Recalls as fractions, `rsum` in percent as papers print it."""
        found: dict[str, float] = {}
        for direction, part in _directions(answers).items():
            ranks = [answer.rank for answer in part if answer.rank is not None]
            found |= {
                f"recall@{k}_{direction}": sum(rank <= k for rank in ranks) / len(ranks) for k in CUTOFFS
            }
        return found | {"rsum": 100 * sum(found.values())}

    def baselines(self, train: Split, test: Split) -> Baselines:
        """A random ranking; an answer that ignores the query cannot do better, so majority is chance."""
        chance = chance_mean_recall(list(Counter(example.image for example in test.examples).values()))
        return Baselines(chance=chance, majority=chance)

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        raise TaskError(
            f"{self.name!r} has no official submission format: its scorer takes the similarity matrix"
        )


@dataclass(frozen=True)
class Flickr30k(Retrieval):
    """Flickr30k with Karpathy's split; images in `flickr30k-images/`."""

    name = "flickr30k"
    file_name = "dataset_flickr30k.json"
    image_folders = (
        "flickr30k-images",
        "flickr30k_images",
        "images",
        "",
        "../flickr30k-images",
        "../snli_ve/flickr30k-images",
    )


@dataclass(frozen=True)
class Coco(Retrieval):
    """MSCOCO with Karpathy's split; images in `train2014/` and `val2014/`."""

    name = "coco"
    file_name = "dataset_coco.json"
    image_folders = ("", "images", "../coco", "../coco/images", "../vqa", "../vqa/images", "..")


def _directions(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    parts = {
        direction: [answer for answer in answers if answer.direction == direction]
        for direction in ("i2t", "t2i")
    }
    for direction, part in parts.items():
        if not part:
            raise TaskError(
                f"retrieval is scored in both directions, but no answer has direction {direction!r}"
            )
    return parts
