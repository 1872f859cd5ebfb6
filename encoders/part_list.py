"""The complete parts of one folder, and where each image's entry lies among them.

Numpy alone, so that commands that look into stores start at once. Handed a folder, which need not exist yet;
hands on parts. What other processes complete is taken up by `refresh`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.errors import StoreError
from encoders.index import ABSENT, INDEX, DigestTable, Index, IndexedPart, read_index, write_index
from encoders.open_parts import OpenParts
from encoders.parts import Part, digest_rows
from encoders.tensor_file import REPAIR


class PartList:
    """The parts of a folder. Those that the index covers are opened when they are first read.

    Attributes:
        opened: those that are open.

    Raises:
        StoreError: a part that the index does not cover is torn, or its table altered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = OpenParts(folder)
        index = read_index(folder)  # before the folder is listed: what it names was complete by then
        names = part_names(folder)
        if index is None or not names.issuperset(part.name for part in index.parts):
            index = Index([], DigestTable.of([]))
        self._listed = index.parts
        self._num_indexed, self._indexed, self._others = len(self._listed), index.table, DigestTable.of([])
        self._take_up(names)

    def __len__(self) -> int:
        """Images stored; one that several parts hold counts once."""
        repeated = (self._indexed.find(self._others.digests)[:, 0] != ABSENT).sum()
        return len(self._indexed.keys) + len(self._others.keys) - int(repeated)

    @property
    def num_parts(self) -> int:
        return len(self._listed)

    @property
    def num_unindexed(self) -> int:
        """Parts that the index does not cover: each is read at the next opening."""
        return len(self._listed) - self._num_indexed

    @property
    def num_bytes(self) -> int:
        return sum(part.size for part in self._listed)

    def refresh(self) -> None:
        """Takes up what other processes have completed.

        Raises:
            StoreError: a new part is torn.
        """
        self._take_up(part_names(self.folder))

    def check_sizes(self) -> None:
        """Looks at the size of every part, which takes a system call for each.

        Raises:
            StoreError: one is torn.
        """
        sizes = part_sizes(self.folder)
        for name, size, _ in self._listed:
            if sizes.get(name, size) != size:
                file = self.folder / name
                raise StoreError(f"{file} is torn: it has {sizes[name]} bytes instead of {size}; {REPAIR}")

    def find(self, digests: Sequence[str]) -> NDArray[np.int32]:
        """Number of the part and row in it for each image, or `ABSENT`."""
        wanted = digest_rows(digests)
        places = self._indexed.find(wanted)
        if self.num_unindexed and len(absent := np.flatnonzero(places[:, 0] == ABSENT)):
            places[absent] = self._others.find(wanted[absent])
        return places

    def stored_outside(self, plan: str, digests: Sequence[str]) -> NDArray[np.bool_]:
        """Which images are stored in a part that does not belong to this plan of an extraction."""
        outside = np.array([*(part.plan != plan for part in self._listed), False], dtype=np.bool_)
        return np.asarray(outside[self.find(digests)[:, 0]])

    def part(self, number: int) -> Part:
        """One part.

        Raises:
            StoreError: it is torn or altered.
        """
        if not 0 <= number < len(self._listed):
            raise StoreError(f"{self.folder / INDEX} is altered: it names a part that it does not list; {REPAIR}")
        return self.opened.get(self._listed[number].name)

    def parts(self) -> Iterable[Part]:
        """All parts, opened one after the other."""
        return (self.part(number) for number in range(self.num_parts))

    def write_index(self) -> None:
        """Makes the index cover all parts; the same parts give the same bytes, whoever writes it.

        Raises:
            StoreError: the disk refuses.
        """
        while True:
            order = sorted(range(self.num_parts), key=lambda number: self._listed[number].name)
            renumbered = np.argsort(np.array(order, dtype=np.int64)).astype(np.int32)
            both = self._indexed, self._others
            places = np.concatenate([table.places for table in both])
            places[:, 0] = renumbered[places[:, 0]]
            self._indexed = DigestTable.sorted(np.concatenate([table.digests for table in both]), places)
            self._listed = [self._listed[number] for number in order]
            self._num_indexed, self._others = len(order), DigestTable.of([])
            write_index(self.folder, Index(self._listed, self._indexed))
            self.refresh()  # another process may have completed a part, or replaced our index by an older one
            written = read_index(self.folder)
            if not self.num_unindexed and written is not None and written.parts == self._listed:
                return

    def verify_index(self) -> None:
        """Makes the index again from the parts that it covers, and compares.

        Raises:
            StoreError: it is torn or altered.
        """
        again = self._table_of(range(self._num_indexed))
        names = DigestTable._fields
        same = all(np.array_equal(getattr(again, name), getattr(self._indexed, name)) for name in names)
        if not same or ((self.folder / INDEX).exists() and read_index(self.folder) is None):
            raise StoreError(f"{self.folder / INDEX} is altered: it does not fit the parts; {REPAIR}")

    def _take_up(self, names: set[str]) -> None:
        fresh = sorted(names.difference(part.name for part in self._listed))
        for name in fresh:
            part = self.opened.get(name)
            self._listed.append(IndexedPart(name, part.size, part.plan))
        if fresh:
            self._others = self._table_of(range(self._num_indexed, self.num_parts))

    def _table_of(self, numbers: Iterable[int]) -> DigestTable:
        """Made of the parts themselves, of which no more need be open than one."""
        return DigestTable.of([(number, self.part(number).digests.copy()) for number in numbers])


def part_names(folder: Path) -> set[str]:
    """File name of each complete part.

    Raises:
        StoreError: the folder cannot be read.
    """
    try:
        return {name for name in os.listdir(folder) if name.startswith("part-") and name.endswith(".safetensors")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error}") from error


def part_sizes(folder: Path) -> dict[str, int]:
    """File name of each complete part -> its bytes.

    Raises:
        StoreError: the folder cannot be read.
    """
    try:
        return {name: os.stat(os.path.join(folder, name)).st_size for name in part_names(folder)}
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error}") from error
