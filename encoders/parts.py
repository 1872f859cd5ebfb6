"""One part of a feature store: a safetensors file that is complete or absent.

A part holds the tokens of many images, rows concatenated, and a table with each image's digest, number of rows
and checksum; stores whose images have boxes of their own (regions) keep those beside the tokens. Its header
carries a checksum of the table, and its name is made from that, so equal content is one file and writers
never share one. Each image's checksum is compared when the image is first read: damage is never a feature.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.durable import write_whole
from encoders.errors import ForeignError, StoreError
from encoders.tensor_file import NUMPY, REPAIR, Tensor, TensorFile, raw, write_tensors

STORED = {"fp16": "F16", "fp32": "F32", "bf16": "BF16"}
"""Name of a precision -> safetensors' name."""
FORMAT = "2"
TABLE = ("digests", "lengths", "checksums")
DIGEST_BYTES = 32


class Part:
    """A part opened for reading: header and table are checked, tokens stay on disk until read.

    Attributes:
        size: bytes of the file.
        count: images in the part.
        plan: which plan of an extraction it belongs to; empty for none.
        checksum: of its table.
        used: when it was last asked for, in turns.
        fits: whether it was found to be what its store's description says.
        checked: for each image the digest under which it was found intact, in hex; None where it was not looked at yet.

    Raises:
        ForeignError: the part is of another format.
        StoreError: the file is torn, its table altered, or it is no part.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tensors = TensorFile(file)
        kinds, metadata = self._tensors.kinds(), self._tensors.metadata
        if not {*TABLE, "tokens"} <= set(kinds) or metadata.get("format") != FORMAT:
            kind = ForeignError if metadata.get("format", FORMAT) != FORMAT else StoreError
            raise kind(f"{file} is not a part of a feature store of format {FORMAT}")
        self.plan, self.size = metadata.get("plan", ""), self._tensors.size
        self.count = kinds["digests"][1][0]
        self.kind, (self._rows, self.width) = kinds["tokens"][0], kinds["tokens"][1]
        self.digests: NDArray[np.uint8] = self._tensors.array("digests")
        self.lengths: NDArray[np.int32] = self._tensors.array("lengths")
        self._checksums = self._tensors.array("checksums")
        self.checksum = _table_checksum(self.kind, self.width, self.digests, self.lengths, self._checksums)
        if self.checksum != metadata.get("sha256") or int(self.lengths.sum(dtype=np.int64)) != self._rows:
            raise StoreError(f"{file} is altered: its checksum does not fit its table; {REPAIR}")
        self.checked: list[str | None] = [None] * self.count
        self.used = 0
        self.fits = False

    @cached_property
    def tokens(self) -> NDArray[Any]:
        return self._tensors.array("tokens")

    @cached_property
    def boxes(self) -> NDArray[np.float32] | None:
        """Of each row, where images have boxes of their own."""
        return self._tensors.array("boxes") if "boxes" in self._tensors.kinds() else None

    @cached_property
    def starts(self) -> list[int]:
        """Row of the tokens where each image begins, and at the end the number of rows."""
        return [0, *np.cumsum(self.lengths, dtype=np.int64).tolist()]

    @cached_property
    def length(self) -> int | None:
        """Rows of every image, where all have as many."""
        first = int(self.lengths[0]) if self.count else 0
        return first if bool((self.lengths == first).all()) else None

    @cached_property
    def token_bytes(self) -> memoryview:
        """All tokens, as bytes."""
        return raw(self.tokens)

    @cached_property
    def image_bytes(self) -> int:
        """What an image takes, in parts with a `length`."""
        return (self.length or 0) * self.width * self.tokens.itemsize

    def check(self, row: int, digest: NDArray[np.uint8]) -> None:
        """Compares one image with its digest and checksum.

        Raises:
            StoreError: it is another image's entry, or was altered.
        """
        if not 0 <= row < self.count or not np.array_equal(self.digests[row], digest):
            raise StoreError(f"the index beside {self.file} is altered: it names another image's entry; {REPAIR}")
        first, last = self.starts[row], self.starts[row + 1]
        boxes = None if self.boxes is None else self.boxes[first:last]
        if _checksum(self.tokens[first:last], boxes) != int(self._checksums[row]):
            raise StoreError(f"{self.file} is altered: image {digest.tobytes().hex()} fails its checksum; {REPAIR}")

    def verify(self) -> None:
        """Reads every byte.

        Raises:
            StoreError: a byte differs from what was written.
        """
        for row in range(self.count):
            self.check(row, self.digests[row])
        if self.file.name != part_name(self.checksum):
            raise StoreError(f"{self.file} is altered: its name does not fit its content; {REPAIR}")


def write_part(
    folder: Path,
    digests: NDArray[np.uint8],
    chunks: Sequence[NDArray[Any]],
    lengths: NDArray[np.int32],
    *,
    dtype: str,
    boxes: NDArray[np.float32] | None = None,
    plan: str = "",
) -> Path:
    """Writes a part atomically and returns its path; a part of equal content is left as it is.

    Args:
        digests: images x 32 bytes.
        chunks: tokens in stored precision, rows x width each; no image spans two chunks.
        lengths: rows of each image.
        boxes: rows x 4, where images have boxes of their own.

    Raises:
        StoreError: the disk refuses.
    """
    width = chunks[0].shape[1]
    checksums = _checksums(chunks, lengths, boxes)
    kind, rows = STORED[dtype], int(lengths.sum(dtype=np.int64))
    checksum = _table_checksum(kind, width, digests, lengths, checksums)
    target = folder / part_name(checksum)
    tensors = {
        "lengths": Tensor("I32", lengths.shape, [lengths]),
        "checksums": Tensor("U32", checksums.shape, [checksums]),
        **({} if boxes is None else {"boxes": Tensor("F32", boxes.shape, [boxes])}),
        "tokens": Tensor(kind, (rows, width), chunks),
        "digests": Tensor("U8", digests.shape, [digests]),
    }
    metadata = {"format": FORMAT, "plan": plan, "sha256": checksum}
    try:
        if not target.exists():
            write_whole(target, lambda handle: write_tensors(handle, tensors, metadata))
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}") from error
    return target


def part_name(checksum: str) -> str:
    """File name of the part whose table has this checksum."""
    return f"part-{checksum[:24]}.safetensors"


def digest_rows(digests: Sequence[str]) -> NDArray[np.uint8]:
    """Digests in hex as images x 32 bytes."""
    assert set(map(len, digests)) <= {2 * DIGEST_BYTES}, "digests are SHA-256 in hex"
    flat = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8)
    return flat.reshape(len(digests), DIGEST_BYTES)


def _checksums(
    chunks: Sequence[NDArray[Any]], lengths: NDArray[np.int32], boxes: NDArray[np.float32] | None
) -> NDArray[np.uint32]:
    found, place, row = np.empty(len(lengths), np.uint32), 0, 0
    pending = iter(chunks)
    chunk = next(pending)
    for image, length in enumerate(lengths.tolist()):
        while place == len(chunk) and length:
            chunk, place = next(pending), 0
        own = None if boxes is None else boxes[row : row + length]
        found[image] = _checksum(chunk[place : place + length], own)
        place, row = place + length, row + length
    return found


def _checksum(tokens: NDArray[Any], boxes: NDArray[np.float32] | None) -> int:
    """CRC-32 of one image's tokens, then of its own boxes."""
    value = zlib.crc32(raw(tokens))
    return value if boxes is None else zlib.crc32(raw(boxes), value)


def _table_checksum(kind: str, width: int, *table: NDArray[Any]) -> str:
    """SHA-256 over precision, width, and type, shape and bytes of the table's columns."""
    digest = hashlib.sha256(json.dumps([FORMAT, kind, NUMPY[kind], width]).encode())
    for array in table:
        digest.update(json.dumps([array.dtype.itemsize, list(array.shape)]).encode())
        digest.update(raw(np.ascontiguousarray(array)))
    return digest.hexdigest()
