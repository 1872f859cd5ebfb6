"""What a run asks of the splits that it holds out: none of their examples was trained on, and all can be scored.

Handed examples of the training split and of the others; hands on what they share and lack. A file that was copied or
saved under another split's name is found by this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.base import Task
from tasks.errors import DatasetError
from tasks.examples import Example

COCO_NAME = re.compile(r"(?:.*/)?COCO_(?:train|val|test)\d{4}_(\d{12})\.jpg")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A split that is not trained on, beside the training split.

    Attributes:
        examples: how many it has.
        images: how many different ones.
        unanswered: examples without a target.
        shared: ids of examples that are in the training split too.
        shared_images: how many images are, with the same text or another.
    """

    examples: int
    images: int
    unanswered: int
    shared: tuple[str, ...]
    shared_images: int


def compare_with_train(train: Iterable[Example], held_out: Mapping[str, Iterable[Example]]) -> dict[str, HeldOut]:
    """Each held-out split beside the training split, which is gone through once and not kept.

    An example is the same if id, image and text are: ids that count rows recur in every split.
    """
    unanswered = dict.fromkeys(held_out, 0)
    keys: dict[str, set[tuple[str, str, str]]] = {part: set() for part in held_out}
    images: dict[str, set[str]] = {part: set() for part in held_out}
    for part, examples in held_out.items():
        for example in examples:
            unanswered[part] += example.target is None
            keys[part].add(_key(example))
            images[part].add(_photo(example.image))
    shared: dict[str, dict[str, None]] = {part: {} for part in held_out}
    shared_images: dict[str, set[str]] = {part: set() for part in held_out}
    for example in train:
        key = _key(example)
        for part in held_out:
            if key[1] in images[part]:
                shared_images[part].add(key[1])
                if key in keys[part]:
                    shared[part][example.id] = None
    return {
        part: HeldOut(len(keys[part]), len(images[part]), unanswered[part], tuple(shared[part]), len(photos))
        for part, photos in shared_images.items()
    }


def check_apart(task: Task, folder: Path, found: Mapping[str, HeldOut]) -> None:
    """Raises DatasetError where a held-out split has examples of the training split."""
    for part, held_out in found.items():
        if held_out.shared:
            file, train = task.source(folder, part), task.source(folder, "train")
            remedy = f"put the file of {_official(task, part)} there" if file != train else "keep each in one split"
            raise DatasetError(
                f"{len(held_out.shared):,} of {held_out.examples:,} examples of split {part!r} of {task.name!r} are in"
                f" split 'train' ({train}) too, such as id {held_out.shared[0]!r}: {remedy}",
                file=file,
            )


def check_answered(task: Task, folder: Path, found: Mapping[str, HeldOut]) -> None:
    """Raises DatasetError where a held-out split cannot be scored."""
    for part, problem in unanswered(task, found).items():
        raise DatasetError(problem, file=task.source(folder, part))


def unanswered(task: Task, found: Mapping[str, HeldOut]) -> dict[str, str]:
    """Why splits cannot be scored, by split; retrieval needs no answers beside its pairs."""
    return {
        part: f"{held_out.unanswered:,} of {held_out.examples:,} examples of split {part!r} of {task.name!r} have no"
        f" answer, so a run cannot be scored on them: put a file of {_official(task, part)} with answers there"
        for part, held_out in found.items()
        if held_out.unanswered and task.scoring == "answers"
    }


def shared_images(found: Mapping[str, HeldOut]) -> list[str]:
    """Notes on splits that share images with the training split, and no example."""
    return [
        f"{held_out.shared_images:,} of {held_out.images:,} images of split {part!r} are in split 'train' too, with"
        " other texts or ids"
        for part, held_out in found.items()
        if held_out.shared_images
    ]


def _official(task: Task, part: str) -> str:
    return repr(task.logical.get(part, part))


def _key(example: Example) -> tuple[str, str, str]:
    return example.id, _photo(example.image), example.text


def _photo(image: str) -> str:
    """COCO numbers images over all its splits, and readers make a file's name of the split that they were asked for."""
    number = COCO_NAME.fullmatch(image)
    return number[1] if number else image
