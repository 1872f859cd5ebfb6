"""Stored features of one encoder, keyed by the digest of an image's bytes.

A store is the folder `<encoder name>-<start of fingerprint>` with `meta.json`, which carries the whole
fingerprint and is checked at opening, and parts (`encoders.parts`). Datasets are views, so those that share
images share features, and other weights, preprocessing, layer, pooling or precision are another folder.
Reading memory-maps the parts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from encoders.base import Encoder
from encoders.errors import StoreError
from encoders.parts import STORED, Part, clean_temporaries, commit, temporary_name, write_part

META = "meta.json"


class StoredFeatures(NamedTuple):
    """Features of several images: shorter entries are padded with zeros, where `valid` is false."""

    tokens: Float[Tensor, "b n d"]
    boxes: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"]


@dataclass(frozen=True, slots=True)
class StoreMeta:
    """What every entry of a store shares. `boxes` are the tokens' (centre x, centre y, width, height)."""

    name: str
    fingerprint: str
    width: int
    grid: tuple[int, int]
    num_prefix: int
    dtype: str
    boxes: tuple[tuple[float, ...], ...]
    preprocess: Mapping[str, Any]
    format: int = 1

    @classmethod
    def of(cls, encoder: Encoder) -> StoreMeta:
        return cls(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            width=encoder.width,
            grid=encoder.grid,
            num_prefix=encoder.num_prefix,
            dtype=encoder.dtype,
            boxes=tuple(tuple(row) for row in encoder.boxes.tolist()),
            preprocess=encoder.preprocess.describe(),
        )

    @property
    def folder(self) -> str:
        """Name of the store's folder: readable, then the start of the fingerprint."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.")
        return f"{readable}-{self.fingerprint[:16]}"


class FeatureStore:
    """Features of one encoder under `root`; nothing is created before the first write.

    Raises:
        StoreError: the folder belongs to another fingerprint, or a part in it is torn.
    """

    def __init__(self, root: Path, encoder: Encoder | StoreMeta) -> None:
        self.meta = encoder if isinstance(encoder, StoreMeta) else StoreMeta.of(encoder)
        self.folder = root / self.meta.folder
        if self.meta.dtype not in STORED:
            raise StoreError(f"precision {self.meta.dtype!r} of {self.folder} is none of {', '.join(STORED)}")
        if (self.folder / META).exists():
            _check_fingerprint(self.folder / META, self.meta.fingerprint)
        self._parts = [Part(file) for file in sorted(self.folder.glob("part-*.safetensors"))]

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """An existing store, without its encoder.

        Raises:
            StoreError: the folder holds no store.
        """
        values = _read_meta(folder / META)
        try:
            values["grid"] = tuple(values["grid"])
            values["boxes"] = tuple(tuple(row) for row in values["boxes"])
            meta = StoreMeta(**values)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{folder / META} does not describe a feature store: {error}") from error
        if meta.folder != folder.name:
            raise StoreError(f"{folder / META} describes {meta.folder}, which is not its folder's name")
        return cls(folder.parent, meta)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not stored, once each, in the order given."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._rows]

    def read(self, digests: Sequence[str]) -> StoredFeatures:
        """The features of these images, as float32, in the order given.

        Raises:
            StoreError: one is not stored.
        """
        if absent := self.missing(digests):
            raise StoreError(f"{len(absent)} of {len(digests)} images are not in {self.folder}: {absent[0]}, …")
        places = np.array([self._rows[digest] for digest in digests], dtype=np.int64).reshape(-1, 2)
        lengths = np.array([self._length(part, row) for part, row in places.tolist()], dtype=np.int64)
        longest = int(lengths.max()) if len(digests) else 0
        torch_type, _, numpy_type = STORED[self.meta.dtype]
        buffer = np.zeros((len(digests), longest, self.meta.width), numpy_type)
        for part in np.unique(places[:, 0]).tolist():
            chosen = np.flatnonzero(places[:, 0] == part)
            self._gather(self._parts[part], places[chosen, 1], lengths[chosen], chosen, buffer)
        bits = torch.from_numpy(buffer)
        tokens = (bits.view(torch_type) if self.meta.dtype == "bf16" else bits).to(torch.float32)
        valid = torch.arange(longest)[None] < torch.from_numpy(lengths)[:, None]
        return StoredFeatures(tokens, self._boxes(longest, len(digests)), valid)

    def write_part(
        self,
        digests: Sequence[str],
        tokens: Float[Tensor, "b n d"] | Float[Tensor, "rows d"],
        *,
        lengths: Int[Tensor, " images"] | None = None,
    ) -> Path:
        """Stores one part, complete or not at all.

        Args:
            tokens: of equal length for all images, or rows concatenated with `lengths` rows an image.

        Raises:
            StoreError: shapes do not fit, a value is not finite in this precision, or the disk refuses.
        """
        if lengths is None:
            lengths = torch.full((len(digests),), tokens.shape[-2], dtype=torch.int32)
        rows = tokens.reshape(-1, tokens.shape[-1])
        if rows.shape != (int(lengths.sum()), self.meta.width) or len(lengths) != len(digests):
            shape = tuple(tokens.shape)
            raise StoreError(f"tokens of shape {shape} for {len(digests)} images do not fit {self.folder}")
        self._prepare()
        file = write_part(self.folder, digests, rows, lengths, dtype=self.meta.dtype)
        self._add(Part(file))
        return file

    def verify(self) -> int:
        """Reads every part whole and returns how many there are.

        Raises:
            StoreError: a part was altered.
        """
        for part in self._parts:
            part.verify()
        return len(self._parts)

    @property
    def bytes_per_image(self) -> int:
        return len(self.meta.boxes) * self.meta.width * STORED[self.meta.dtype][0].itemsize

    @cached_property
    def _rows(self) -> dict[str, tuple[int, int]]:
        """Digest -> number of the part, row in it; the first part wins."""
        rows: dict[str, tuple[int, int]] = {}
        for number, part in enumerate(self._parts):
            for row, digest in enumerate(part.digests):
                rows.setdefault(digest, (number, row))
        return rows

    def _add(self, part: Part) -> None:
        if any(part.file == known.file for known in self._parts):
            return
        for row, digest in enumerate(part.digests):
            self._rows.setdefault(digest, (len(self._parts), row))
        self._parts.append(part)

    def _length(self, part: int, row: int) -> int:
        starts = self._parts[part].starts
        return int(starts[row + 1] - starts[row])

    def _gather(self, part: Part, rows: Any, lengths: Any, places: Any, buffer: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Copies the chosen images from the mapped part into their places."""
        longest, count = buffer.shape[1], part.count
        if part.tokens.shape[0] == count * longest and (lengths == longest).all():
            buffer[places] = part.tokens.reshape(count, longest, -1)[rows]
            return
        for place, start, length in zip(places, part.starts[rows], lengths, strict=True):
            buffer[place, :length] = part.tokens[start : start + length]

    def _boxes(self, longest: int, batch: int) -> Float[Tensor, "b n 4"]:
        boxes = torch.tensor(self.meta.boxes, dtype=torch.float32).reshape(-1, 4)[:longest]
        return boxes.expand(batch, longest, 4).clone()

    def _prepare(self) -> None:
        """The folder with its meta.json, which is written once and then only compared."""
        file = self.folder / META
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clean_temporaries(self.folder)
            if not file.exists():
                temporary = temporary_name(self.folder)
                temporary.write_text(json.dumps(asdict(self.meta), indent=1), encoding="utf-8")
                commit(temporary, file)
        except OSError as error:
            raise StoreError(f"cannot write the feature store {self.folder}: {error}") from error
        _check_fingerprint(file, self.meta.fingerprint)


def _read_meta(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {os.fspath(file)}: {error}") from error
    if not isinstance(values, dict):
        raise StoreError(f"{file} does not describe a feature store")
    return values


def _check_fingerprint(file: Path, fingerprint: str) -> None:
    stored = _read_meta(file).get("fingerprint")
    if stored != fingerprint:
        raise StoreError(f"{file} has fingerprint {stored}, this encoder has {fingerprint}: move the folder away")
