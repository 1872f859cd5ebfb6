"""The index of a feature store: sorted digests, with the part and the row where each image's entry lies.

`index.safetensors` makes a million entries open as soon as it is mapped. It is only a shortcut: it names the
parts that it covers, a reader looks into the others itself, and every place that it gives is compared with the
part's own table before an entry is used. So it may be absent, old or altered, and any process may replace it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.durable import write_whole
from encoders.errors import StoreError
from encoders.tensor_file import Tensor, TensorFile, write_tensors

INDEX = "index.safetensors"
ABSENT = -1


class DigestTable(NamedTuple):
    """Digests in order, with the number of the part and the row in it.

    Attributes:
        keys: the first eight bytes of each digest as a number.
        digests: entries x 32 bytes.
        places: entries x 2.
    """

    keys: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    places: NDArray[np.int32]

    @classmethod
    def of(cls, parts: Sequence[tuple[int, NDArray[np.uint8]]]) -> DigestTable:
        """From each part's number and digests; a digest that several parts have is found in the first."""
        nothing = np.empty((0, 32), np.uint8)
        digests = np.concatenate([nothing, *(rows for _, rows in parts)])
        numbers = np.repeat([number for number, _ in parts], [len(rows) for _, rows in parts])
        rows = np.concatenate([np.empty(0, np.int64), *(np.arange(len(rows)) for _, rows in parts)])
        return cls.sorted(digests, np.stack([numbers, rows], axis=1).astype(np.int32))

    @classmethod
    def sorted(cls, digests: NDArray[np.uint8], places: NDArray[np.int32]) -> DigestTable:
        """Brings entries into order."""
        words = _words(digests)
        order = np.argsort(words[:, 0], kind="stable")
        if bool((words[order[1:], 0] == words[order[:-1], 0]).any()):
            order = np.lexsort((places[:, 1], places[:, 0], *words.T[::-1]))
            fresh = (words[order[1:]] != words[order[:-1]]).any(axis=1)
            order = order[np.concatenate([[True], fresh])]
        return cls(words[order, 0], digests[order], places[order])

    def find(self, wanted: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Number of the part and row in it for each digest, or `ABSENT`."""
        keys = wanted.view(">u8")[:, 0].astype(np.uint64)
        at = self.keys.searchsorted(keys)
        if len(self.keys):  # mostly all are here, and no two begin alike
            if self.digests.take(at, axis=0, mode="clip").tobytes() == wanted.tobytes():
                return self.places.take(at, axis=0, mode="clip")
        places = np.full((len(wanted), 2), ABSENT, dtype=np.int32)
        pending = np.flatnonzero(at < len(self.keys))
        while len(pending):  # more than once only where different digests begin with the same eight bytes
            pending = pending[self.keys[at[pending]] == keys[pending]]
            equal = (self.digests[at[pending]] == wanted[pending]).all(axis=1)
            places[pending[equal]] = self.places[at[pending[equal]]]
            pending = pending[~equal]
            at[pending] += 1
            pending = pending[at[pending] < len(self.keys)]
        return places


class IndexedPart(NamedTuple):
    """A part that the index covers."""

    name: str
    size: int
    plan: str


class Index(NamedTuple):
    """What the index file holds; `places` count the parts in their order here."""

    parts: list[IndexedPart]
    table: DigestTable


def read_index(folder: Path) -> Index | None:
    """The folder's index, mapped; None where there is none, or none that can be used."""
    try:
        file = TensorFile(folder / INDEX)
        listed = json.loads(file.metadata["parts"])
        parts = [IndexedPart(str(name), int(size), str(plan)) for name, size, plan in listed]
        table = DigestTable(*(file.array(name) for name in DigestTable._fields))
    except (StoreError, KeyError, ValueError, TypeError):
        return None
    fits = table.digests.shape == (len(table.keys), 32) and table.places.shape == (len(table.keys), 2)
    return Index(parts, table) if fits and table.places.dtype == np.int32 else None


def write_index(folder: Path, index: Index) -> None:
    """Replaces the folder's index.

    Raises:
        StoreError: the disk refuses.
    """
    kinds = {"keys": "U64", "digests": "U8", "places": "I32"}
    arrays = {name: getattr(index.table, name) for name in ("keys", "places", "digests")}
    tensors = {name: Tensor(kinds[name], array.shape, [array]) for name, array in arrays.items()}
    metadata = {"parts": json.dumps(index.parts)}
    try:
        write_whole(folder / INDEX, lambda handle: write_tensors(handle, tensors, metadata))
    except OSError as error:
        raise StoreError(f"cannot write {folder / INDEX}: {error}") from error


def _words(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Each digest as four numbers in the order of its bytes."""
    return np.ascontiguousarray(digests).reshape(-1).view(">u8").astype(np.uint64).reshape(-1, 4)
