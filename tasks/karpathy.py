"""Flickr30k and MSCOCO retrieval: Karpathy's JSON and the other formats of `tasks.caption_rows`.

One official record is an image with its captions; it becomes one example a caption, with the caption's `sentid` as id
(image#number where the format has none). All captions of an image are kept (some COCO images have six or seven), and
`restval` belongs to train.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from tasks.base import Answer, Baselines, Example, Objective, Split, Task, mean_score
from tasks.caption_rows import PARTS, SHAPES, captioned_images
from tasks.discovery import SPELLINGS, Found, find_tables, shard_of
from tasks.errors import TaskError
from tasks.retrieval_metrics import CUTOFFS, chance_mean_recall

WANTED = {"train": ("train", "restval"), "select": ("val",)}
NAMED_PART = re.compile(r"(?:^|[^a-z])(train|restval|validation|valid|val|dev|test)(?:[^a-z]|$)")


def named_part(relative: str) -> str | None:
    """The split that a file's name tells."""
    found = NAMED_PART.search(shard_of(PurePosixPath(relative))[1])
    return SPELLINGS.get(found[1], found[1]) if found else None


@dataclass(frozen=True)
class Retrieval(Task):
    """Image-text retrieval both ways; the metric is the mean of recall at 1, 5, 10 in both directions (rsum / 600).

    Attributes:
        shared: width of the shared image-text space.
        temperature: where the learned temperature starts.
        match_weight: weight of matching beside contrast.
        negatives: which hard negatives matching gets for each example.
        match_share: share of a batch's examples that matching trains on.
    """

    metric = "mean_recall"
    logical: ClassVar = {"train": "train + restval", "select": "val", "test": "test"}
    official = PARTS
    file_names: ClassVar[tuple[str, ...]]
    flat_images: ClassVar[bool] = False
    scoring = "gallery"

    shared: int = 256
    temperature: float = 0.07
    match_weight: float = 1.0
    negatives: Literal["both", "alternate"] = "both"
    match_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.match_share <= 1:
            raise TaskError(f"{self.name}.match_share={self.match_share!r} must be above 0 and at most 1")

    def tables(self, folder: Path, split: str) -> list[Found]:
        part = WANTED.get(split, (split,))[0]
        return find_tables(
            folder,
            part="train" if part == "restval" else part,
            part_of=named_part,
            shapes=SHAPES,
            expected=self.file_names,
        )

    def records(self, folder: Path, split: str) -> Iterator[Sequence[Example]]:
        yield from captioned_images(
            self.tables(folder, split), WANTED.get(split, (split,)), flat=self.flat_images
        )

    def objective(self, train: Split, width: int) -> Objective:
        from tasks.contrast import RetrievalObjective

        return RetrievalObjective(
            task=self.name,
            width=width,
            shared=self.shared,
            temperature=self.temperature,
            match_weight=self.match_weight,
            negatives=self.negatives,
            match_share=self.match_share,
        )

    def value(self, answers: Sequence[Answer]) -> float:
        """Mean of the two directions' mean recalls."""
        return sum(mean_score(part) for part in by_direction(answers).values()) / 2

    def secondary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Recalls as fractions, `rsum` in percent as papers print it."""
        found: dict[str, float] = {}
        for direction, part in by_direction(answers).items():
            ranks = [answer.rank for answer in part if answer.rank is not None]
            found |= {
                f"recall@{k}_{direction}": sum(rank <= k for rank in ranks) / len(ranks) for k in CUTOFFS
            }
        return found | {"rsum": 100 * sum(found.values())}

    def chance(self, test: Split) -> float:
        """Of a random ranking of the gallery, exactly."""
        return chance_mean_recall(list(Counter(example.image for example in test.examples).values()))

    def baselines(self, train: Split, test: Split) -> Baselines:
        """A random ranking; an answer that ignores the query cannot do better, so majority is chance."""
        return Baselines(chance=self.chance(test), majority=self.chance(test))

    def export(self, answers: Sequence[Answer], path: Path) -> None:
        raise TaskError(
            f"{self.name!r} has no official submission format: its scorer takes the similarity matrix "
            "(see tasks.predictions.write_similarity)"
        )


@dataclass(frozen=True)
class Flickr30k(Retrieval):
    """Flickr30k with Karpathy's split; images in `flickr30k-images/`."""

    name = "flickr30k"
    file_names = ("dataset_flickr30k.json", "results_20130124.token", "results.csv")
    flat_images = True
    image_folders = (
        "flickr30k-images",
        "flickr30k_images",
        "flickr30k_images/flickr30k_images",
        "images",
        "",
        "../flickr30k-images",
        "../snli_ve/flickr30k-images",
    )


@dataclass(frozen=True)
class Coco(Retrieval):
    """MSCOCO with Karpathy's split; images in `train2014/` and `val2014/`."""

    name = "coco"
    file_names = ("dataset_coco.json",)
    image_folders = ("", "images", "../coco", "../coco/images", "../vqa", "../vqa/images", "..")


def by_direction(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Answers of each direction. Raises TaskError unless both have some."""
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
