"""Stored features of one encoder, keyed by the digest of an image's bytes.

A store is the folder `<encoder name>-<start of fingerprint>` with `meta.json`, which carries the whole
fingerprint and is checked at opening, parts (`encoders.parts`) and an index (`encoders.index`). Datasets are
views, so those that share images share features, and other weights, preprocessing, layer, pooling or precision
are another folder. Reading memory-maps the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from encoders.base import Encoder
from encoders.durable import sweep
from encoders.errors import StoreError
from encoders.index import ABSENT
from encoders.part_list import PartList
from encoders.parts import STORED, Part, digest_rows, write_part
from encoders.store_meta import META, StoreMeta

__all__ = ["FeatureStore", "StoreMeta", "StoredFeatures"]

TYPES: dict[str, tuple[torch.dtype, str]] = {
    "fp16": (torch.float16, "<f2"),
    "fp32": (torch.float32, "<f4"),
    "bf16": (torch.bfloat16, "<u2"),
}
"""Name of a precision -> torch's type, numpy's type (numpy has no bfloat16: its bits)."""
INFINITE = {
    "fp16": (torch.int16, 0x7FFF, 0x7C00),
    "fp32": (torch.int32, 0x7FFFFFFF, 0x7F800000),
    "bf16": (torch.int16, 0x7FFF, 0x7F80),
}
"""Name of a precision -> its bits as a number, those without the sign, and infinity's, which NaN's exceed."""


class StoredFeatures(NamedTuple):
    """Features of several images: shorter entries are padded with zeros, where `valid` is false."""

    tokens: Float[Tensor, "b n d"]
    boxes: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"]


class FeatureStore:
    """Features of one encoder under `root`; nothing is created before the first write.

    It may be handed to other processes: they open the folder again. Only complete parts are seen.

    Raises:
        StoreError: the folder belongs to another fingerprint, or a part in it that the index does not cover is torn.
    """

    def __init__(self, root: Path, encoder: Encoder | StoreMeta) -> None:
        self.meta = encoder if isinstance(encoder, StoreMeta) else StoreMeta.of(encoder)
        self.folder = root / self.meta.folder
        if self.meta.dtype not in STORED:
            raise StoreError(f"precision {self.meta.dtype!r} of {self.folder} is none of {', '.join(STORED)}")
        if (self.folder / META).exists():
            self.meta.check(self.folder / META)
        self.part_list = PartList(self.folder)
        self._shared = torch.tensor(self.meta.boxes, dtype=torch.float32) if self.meta.boxes else None
        self._one_valid = torch.ones(1, 1, dtype=torch.bool)
        self._last_views: tuple[tuple[int, int], Tensor | None, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.folder.parent, self.meta)

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """An existing store, without its encoder.

        Raises:
            StoreError: the folder holds no store.
        """
        return cls(folder.parent, StoreMeta.read(folder / META))

    def __len__(self) -> int:
        return len(self.part_list)

    def __contains__(self, digest: str) -> bool:
        return not self.missing([digest])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not stored, once each, in the order given."""
        distinct = list(dict.fromkeys(digests))
        absent = self.part_list.find(distinct)[:, 0] == ABSENT
        return [distinct[place] for place in np.flatnonzero(absent).tolist()]

    def read(self, digests: Sequence[str], *, precision: Literal["fp32", "stored"] = "fp32") -> StoredFeatures:
        """The features of these images, in the order given, as float32 or in the precision of the store.

        Each image's checksum is compared when this process first reads it.

        Raises:
            StoreError: one is not stored, or was altered.
        """
        places = self.part_list.find(digests)
        numbers, rows = places.T.tolist()
        if ABSENT in numbers:
            absent = self.missing(digests)
            raise StoreError(f"{len(absent)} of {len(digests)} images are not in {self.folder}: {absent[0]}, …")
        parts = {number: self._fitting(number) for number in set(numbers)}
        entries = []
        for number, row, digest in zip(numbers, rows, digests, strict=True):
            part = parts[number]
            if not (0 <= row < part.count and part.checked[row] == digest):
                part.check(row, digest_rows([digest])[0])
                part.checked[row] = digest
            entries.append((part, row))
        lengths = {part.length for part in parts.values()}
        if len(lengths) == 1 and None not in lengths:
            tokens, unequal_valid = self._gather(entries), None
        else:
            tokens, unequal_valid = self._gather_unequal(entries)
        boxes, all_valid = self._shared_views(*tokens.shape[:2])
        if boxes is None:
            boxes = self._own_boxes(entries, tokens.shape[1])
        stored = torch.from_numpy(tokens)
        if self.meta.dtype == "bf16":
            stored = stored.view(torch.bfloat16)
        chosen = stored.to(torch.float32) if precision == "fp32" else stored
        return StoredFeatures(chosen, boxes, all_valid if unequal_valid is None else unequal_valid)

    def write_part(
        self,
        digests: Sequence[str],
        tokens: Float[Tensor, "b n d"] | Float[Tensor, "rows d"],
        *,
        lengths: Int[Tensor, " images"] | None = None,
        boxes: Float[Tensor, "rows 4"] | None = None,
    ) -> Path:
        """Stores one part, complete or not at all.

        Args:
            tokens: of equal length for all images, or rows concatenated with `lengths` rows an image.
            boxes: one a row, in stores whose images have boxes of their own (`meta.boxes` is empty).

        Raises:
            StoreError: shapes do not fit, a value is not finite in this precision, or the disk refuses.
        """
        if lengths is None:
            lengths = torch.full((len(digests),), tokens.shape[-2], dtype=torch.int32)
        stored = self.encode(tokens.reshape(-1, tokens.shape[-1]))
        own = None if boxes is None else boxes.numpy().astype("<f4")
        counts = lengths.numpy().astype("<i4")
        self._check_shapes(digests, [stored], counts, own)
        self.prepare()
        file = self.write_encoded(digests, [stored], counts, boxes=own)
        self.part_list.refresh()
        return file

    def encode(self, tokens: Float[Tensor, "*batch d"]) -> NDArray[Any]:
        """Tokens as they are stored: in the store's precision, on the CPU (bf16 as its bits).

        Raises:
            StoreError: a value is not finite in this precision.
        """
        stored = tokens.detach().to(TYPES[self.meta.dtype][0])
        kind, unsigned, infinity = INFINITE[self.meta.dtype]
        if stored.numel() and int((stored.view(kind) & unsigned).amax()) >= infinity:  # 5 times isfinite's speed
            # Rounded on a GPU they come as they are to be stored, and do not tell whether they were finite before.
            may_fit = tokens.dtype == stored.dtype or bool(torch.isfinite(tokens).all())
            hint = "; store them with dtype=bf16 or fp32" if self.meta.dtype == "fp16" and may_fit else ""
            raise StoreError(f"features for {self.folder} are not finite in {self.meta.dtype}{hint}")
        whole = stored.to("cpu").contiguous()
        bits = whole.view(torch.uint16) if self.meta.dtype == "bf16" else whole
        encoded: NDArray[Any] = bits.numpy()
        return encoded

    def write_encoded(
        self,
        digests: Sequence[str],
        chunks: Sequence[NDArray[Any]],
        lengths: NDArray[np.int32],
        *,
        boxes: NDArray[np.float32] | None = None,
        plan: str = "",
    ) -> Path:
        """Writes a part of rows that `encode` gave, and leaves the store as it was opened; see `write_part`."""
        self._check_shapes(digests, chunks, lengths, boxes)
        table = digest_rows(digests)
        return write_part(self.folder, table, chunks, lengths, dtype=self.meta.dtype, boxes=boxes, plan=plan)

    def _check_shapes(
        self,
        digests: Sequence[str],
        chunks: Sequence[NDArray[Any]],
        lengths: NDArray[np.int32],
        boxes: NDArray[np.float32] | None,
    ) -> None:
        rows, width = sum(len(chunk) for chunk in chunks), chunks[0].shape[-1]
        if (rows, width, len(digests)) != (int(lengths.sum()), self.meta.width, len(lengths)):
            raise StoreError(f"{rows} tokens of width {width} for {len(digests)} images do not fit {self.folder}")
        if (boxes is None) != bool(self.meta.boxes) or (boxes is not None and boxes.shape != (rows, 4)):
            shape = "no boxes" if boxes is None else f"boxes of shape {boxes.shape}"
            raise StoreError(f"{shape} for {rows} tokens do not fit {self.folder}")

    def prepare(self) -> None:
        """The folder with its meta.json, which is written once and then only compared; leftovers go.

        Raises:
            StoreError: the folder cannot be written, or belongs to another encoder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            if not (self.folder / META).exists():
                self.meta.write(self.folder / META)
        except OSError as error:
            raise StoreError(f"cannot write the feature store {self.folder}: {error}") from error
        self.meta.check(self.folder / META)

    def siblings(self) -> list[tuple[Path, str]]:
        """Stores of an encoder of the same name, and what is to be said of each: in what it differs, or is damaged."""
        found = []
        for folder in sorted(self.folder.parent.glob(self.folder.name[:-16] + "[0-9a-f]" * 16)):
            if folder.name == self.folder.name or not (folder / META).exists():
                continue
            try:
                other = StoreMeta.read(folder / META)
            except StoreError as error:
                found.append((folder, str(error)))
                continue
            if other.name == self.meta.name:
                differing = ", ".join(self.meta.differences(other)) or "weights, layer or pooling"
                found.append((folder, f"{folder} has other {differing}"))
        return found

    def verify(self) -> int:
        """Reads every part whole and returns how many there are.

        Raises:
            StoreError: a part was altered.
        """
        for part in self.part_list.parts():
            part.verify()
        self.part_list.verify_index()
        return self.part_list.num_parts

    @property
    def bytes_per_image(self) -> int:
        """What an image's tokens take; where images have boxes of their own, at most, and with those."""
        itemsize = np.dtype(TYPES[self.meta.dtype][1]).itemsize
        if self.meta.boxes:
            return len(self.meta.boxes) * self.meta.width * itemsize
        return self.meta.grid[0] * self.meta.grid[1] * (self.meta.width * itemsize + 16)

    def _fitting(self, number: int) -> Part:
        part = self.part_list.part(number)
        if not part.fits:
            expected = STORED[self.meta.dtype], self.meta.width, bool(self.meta.boxes)
            if (part.kind, part.width, part.boxes is None) != expected:
                found = f"{part.kind} of width {part.width}"
                raise StoreError(f"{part.file} holds {found}, which does not fit its meta.json")
            part.fits = True
        return part

    def _gather(self, entries: Sequence[tuple[Part, int]]) -> NDArray[Any]:
        """Images that all have as many rows. Bytes are joined faster than rows of arrays, and let other threads run."""
        first = entries[0][0]
        size = first.image_bytes
        joined = bytearray().join([part.token_bytes[row * size : (row + 1) * size] for part, row in entries])
        return np.ndarray((len(entries), first.length or 0, first.width), first.tokens.dtype, buffer=joined)

    def _gather_unequal(self, entries: Sequence[tuple[Part, int]]) -> tuple[NDArray[Any], Bool[Tensor, "b n"]]:
        lengths = np.array([part.lengths[row] for part, row in entries], dtype=np.int64)
        shape = len(entries), int(lengths.max(initial=0)), self.meta.width
        gathered = np.zeros(shape, TYPES[self.meta.dtype][1])
        for place, (part, row) in enumerate(entries):
            gathered[place, : lengths[place]] = part.tokens[part.starts[row] : part.starts[row + 1]]
        return gathered, torch.arange(shape[1])[None] < torch.from_numpy(lengths)[:, None]

    def _shared_views(self, images: int, length: int) -> tuple[Float[Tensor, "b n 4"] | None, Bool[Tensor, "b n"]]:
        """The encoder's boxes, None where images have their own, and a mask in which all is valid.

        Both are views of one copy, kept for the next batch of that size.
        """
        last = self._last_views
        if last is None or last[0] != (images, length):
            boxes = None if self._shared is None else self._shared[:length].expand(images, -1, -1)
            self._last_views = last = (images, length), boxes, self._one_valid.expand(images, length)
        return last[1:]

    def _own_boxes(self, entries: Sequence[tuple[Part, int]], longest: int) -> Float[Tensor, "b n 4"]:
        """The images' own, padded with zeros."""
        own = torch.zeros(len(entries), longest, 4)
        for place, (part, row) in enumerate(entries):
            assert part.boxes is not None
            rows = np.array(part.boxes[part.starts[row] : part.starts[row + 1]])
            own[place, : len(rows)] = torch.from_numpy(rows)
        return own
