"""Which files of a dataset folder hold a split, and in which format.

Handed a folder; hands on `Found` tables. The split is read off a file's place and name where its records do not tell
it; the format is told by the keys of the first record, never by the name. Where several formats hold one split, the one
listed first by the task (the official one) is taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TypeVar

from tasks.errors import AbsentError, DatasetError
from tasks.files import Record
from tasks.tables import SUFFIXES, Container, Table, open_table

DEEPEST = 3
SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$|_\d+$")
NUMBERED = re.compile(r"\d{4,}\.parquet")
HIDDEN = re.compile(r"\.|__MACOSX$")
IMAGE_FOLDERS = re.compile(r"(train|val|test)20\d\d|im(a)?g(e)?s?|flickr30k[-_]images|unpacked_images")
SIDE_FILES = ("factors.json",)
SPELLINGS = {"validation": "val", "valid": "val", "dev": "val"}

Place = TypeVar("Place", bound=PurePath)


@dataclass(frozen=True)
class Shape:
    """A format: the keys that its records have ("a|b": one of them) and those they do not have.

    Attributes:
        name: what the format is called.
        keys: of the first record; in an enveloped file, the envelope as "images:".
        without: keys that belong to another format.
        split_key: the key with the record's split; None where a file holds one split.
        containers: the only containers it comes in; () for any.
    """

    name: str
    keys: tuple[str, ...]
    without: tuple[str, ...] = ()
    split_key: str | None = None
    envelope: str | None = None
    containers: tuple[Container, ...] = ()

    def fits(self, table: Table, record: Record) -> bool:
        """Whether a table with this first record is of the format."""
        if table.envelope != self.envelope or (self.containers and table.container not in self.containers):
            return False
        has = record.fields.keys()
        return all(has & set(key.split("|")) for key in self.keys) and not has & set(self.without)


@dataclass(frozen=True)
class Found:
    """A file, its container and its format."""

    table: Table
    shape: Shape

    @property
    def file(self) -> Path:
        """The file."""
        return self.table.file


def split_of(record: Record, key: str, parts: Sequence[str]) -> str:
    """The split that a record names, in any usual spelling. Raises DatasetError where it is none of `parts`."""
    said = record.text(key).strip().lower()
    part = SPELLINGS.get(said, said)
    if part not in parts:
        near = get_close_matches(part, parts, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise record.error(f"{key} {ascii(said)[:60]} is none of {', '.join(parts)}{hint}")
    return part


def shard_of(path: Place) -> tuple[Place, str]:
    """Folder and name of the file that a shard is of.

    Both `data/test-00000-of-00002.parquet` and `data/test/0000.parquet`, as the Hub converts, are of `test` in `data`.
    """
    if NUMBERED.fullmatch(path.name):
        return path.parent.parent, path.parent.name
    return path.parent, SHARD.sub("", path.stem)


def annotation_files(folder: Path) -> list[Path]:
    """Files with the suffix of an annotation, in the folder and below it; folders of images and hidden ones left out.

    Hidden are names with a leading dot and `__MACOSX`, where archives made on a Mac keep a `._` file beside every file.
    """
    found: list[Path] = []

    def walk(place: Path, depth: int) -> None:
        try:
            entries = sorted(
                (entry for entry in os.scandir(place) if not HIDDEN.match(entry.name)), key=lambda entry: entry.name
            )
        except OSError as error:
            raise DatasetError(f"cannot be listed: {error.strerror}", file=place) from error
        found.extend(
            Path(entry.path)
            for entry in entries
            if entry.name.endswith(SUFFIXES) and entry.name not in SIDE_FILES
        )
        for entry in entries:
            if depth < DEEPEST and entry.is_dir() and not IMAGE_FOLDERS.fullmatch(entry.name.lower()):
                walk(Path(entry.path), depth + 1)

    walk(folder, 0)
    return found


def parts_named(folder: Path, part_of: Callable[[str], str | None]) -> set[str]:
    """The splits that the names of a folder's annotation files tell."""
    told = {part_of(_relative(file, folder)) for file in annotation_files(folder)}
    return {part for part in told if part}


def companion(folder: Path, name: str, *, of: Path) -> Path:
    """The file of this name, anywhere below the folder, that lies the fewest folders away from another.

    Raises:
        DatasetError: there is none (AbsentError), or two are equally near.
    """
    here = of.parent.relative_to(folder).parts
    distances: dict[Path, int] = {}
    for file in annotation_files(folder):
        if file.name == name:
            there = file.parent.relative_to(folder).parts
            shared = len(os.path.commonprefix([here, there]))
            distances[file] = len(here) + len(there) - 2 * shared
    if not distances:
        raise AbsentError(f"holds no {name}, which belongs to {of.name}", file=folder)
    nearest = [file for file, distance in distances.items() if distance == min(distances.values())]
    if len(nearest) > 1:
        files = ", ".join(map(str, nearest))
        raise DatasetError(f"{name} is there more than once: keep one of {files}", file=of.parent)
    return nearest[0]


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix().lower()


def tell_shape(table: Table, shapes: Sequence[Shape]) -> Shape | None:
    """The format of a table; None where it has no records or they fit none."""
    record = table.first()
    return None if record is None else next((shape for shape in shapes if shape.fits(table, record)), None)


def find_tables(
    folder: Path,
    *,
    part: str,
    part_of: Callable[[str], str | None],
    shapes: Sequence[Shape],
    expected: Sequence[str],
) -> list[Found]:
    """The file that holds a split, or its shards in order.

    Args:
        part: the official split.
        part_of: the split that a file's relative path (in lower case) names; None where it names none, "" where the
            file is no annotation file of the task. Where records tell their split, the name does not count.
        shapes: the formats, the official one first.
        expected: usual names of the file, for the error; a file of such a name is preferred.

    Raises:
        DatasetError: no file holds the split (AbsentError where none claims to), two of equal standing do, or the file
            or one of its shards cannot be read. Others that cannot be read do not matter.
    """
    named: list[Path] = []
    unreadable: list[DatasetError] = []
    claiming: list[DatasetError] = []
    fitting: list[Found] = []
    told_by_records = any(shape.split_key for shape in shapes)
    for file in annotation_files(folder):
        place = part_of(_relative(file, folder))
        claimed = place == part or file.name in expected
        if place == "" or not (claimed or told_by_records):
            continue
        try:
            table = open_table(file)
            shape = tell_shape(table, shapes)
        except DatasetError as error:
            if file.name in expected:
                raise
            (claiming if claimed else unreadable).append(error)
            continue
        if shape is not None and (claimed or shape.split_key is not None):
            fitting.append(Found(table, shape))
        elif claimed:
            named.append(file)
    if not fitting:
        raise claiming[0] if claiming else _nothing_found(folder, named, shapes, expected)
    best = min(shapes.index(found.shape) for found in fitting)
    chosen = _one_of([found for found in fitting if shapes.index(found.shape) == best], part, expected)
    for lost in (*claiming, *unreadable):
        if _whole(lost.file) in {_whole(found.file) for found in chosen}:
            raise lost
    return chosen


def _whole(shard: Path) -> tuple[Path, str, str]:
    return (*shard_of(shard), shard.suffix)


def _one_of(rivals: list[Found], part: str, expected: Sequence[str]) -> list[Found]:
    """The shards of one file, or the file that has a usual name, of those that lie least deep."""
    depth = min(len(found.file.parts) for found in rivals)
    rivals = [found for found in rivals if len(found.file.parts) == depth]
    wholes = {_whole(found.file) for found in rivals}
    shards_of_all_splits = all(found.shape.split_key and shard_of(found.file)[1] != found.file.stem for found in rivals)
    if len(wholes) == 1 or (shards_of_all_splits and len({place for place, _, _ in wholes}) == 1):
        return sorted(rivals, key=lambda found: (found.file.parent, len(found.file.name), found.file.name))
    for name in expected:
        usual = [found for found in rivals if found.file.name == name]
        if len(usual) == 1:
            return usual
    files = ", ".join(str(found.file) for found in rivals)
    raise DatasetError(f"{part!r} is in more than one file: keep one of {files}", file=rivals[0].file.parent)


def _nothing_found(
    folder: Path, named: Sequence[Path], shapes: Sequence[Shape], expected: Sequence[str]
) -> DatasetError:
    formats = ", ".join(shape.name for shape in shapes)
    if named:
        table = open_table(named[0])
        first = table.first()
        if first is None:
            return DatasetError("holds no examples", file=named[0])
        keys = ascii(list(first.fields))[:200]
        inside = f" under {table.envelope!r}" if table.envelope else ""
        problem = f"is of no known format: a record with keys {keys}{inside} fits none of {formats}"
        return DatasetError(problem, file=named[0], record=first.name)
    return AbsentError(f"holds none of {', '.join(expected)}, nor that split as {formats}", file=folder)
