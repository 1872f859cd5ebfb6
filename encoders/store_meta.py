"""`meta.json` of a feature store: what all its entries share, with a checksum of its own.

Written once, compared at each opening; a store is never read under settings that are not its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.durable import write_whole
from encoders.errors import ForeignError, StoreError, UnreadableError
from encoders.parts import FORMAT

META = "meta.json"


@dataclass(frozen=True, slots=True)
class StoreMeta:
    """What every entry of a store shares.

    Attributes:
        boxes: the tokens' (centre x, centre y, width, height); none where each image has its own (regions).
    """

    name: str
    fingerprint: str
    width: int
    grid: tuple[int, int]
    num_prefix: int
    dtype: str
    boxes: tuple[tuple[float, ...], ...]
    preprocess: Mapping[str, Any]
    format: int = int(FORMAT)

    @classmethod
    def of(cls, encoder: Any) -> StoreMeta:
        """Of an `encoders.base.Encoder`; one that looks files up gives each image boxes of its own."""
        shared = encoder.boxes.tolist() if encoder.reads == "pixels" else ()
        return cls(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            width=encoder.width,
            grid=encoder.grid,
            num_prefix=encoder.num_prefix,
            dtype=encoder.dtype,
            boxes=tuple(tuple(row) for row in shared),
            preprocess=encoder.preprocess.describe(),
        )

    @classmethod
    def read(cls, file: Path) -> StoreMeta:
        """From a store's folder.

        Raises:
            ForeignError: the file is of another format, or describes another folder.
            StoreError: it is absent or altered, or cannot be read.
        """
        values = _read(file)
        try:
            values["grid"] = tuple(values["grid"])
            values["boxes"] = tuple(tuple(row) for row in values["boxes"])
            meta = cls(**values)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{file} does not describe a feature store: {error}") from error
        if meta.folder != file.parent.name:
            raise ForeignError(
                f"{file} describes {meta.folder}, which is not its folder's name: give the folder that name, or move "
                "it out of the folder of stores"
            )
        return meta

    def write(self, file: Path) -> None:
        """Raises OSError where the disk refuses."""
        values = asdict(self)
        text = json.dumps({**values, "sha256": _checksum(values)}, indent=1)
        write_whole(file, lambda handle: handle.write(text.encode()))

    def check(self, file: Path) -> None:
        """Compares with a store's file.

        Raises:
            StoreError: the store is another encoder's, or of another format.
        """
        stored, own = _read(file), json.loads(json.dumps(asdict(self)))
        if stored.get("fingerprint") != self.fingerprint:
            theirs = stored.get("fingerprint")
            raise StoreError(
                f"{file} has fingerprint {theirs}, this encoder has {self.fingerprint}: move the folder away"
            )
        if stored != own:
            differing = ", ".join(key for key in {**own, **stored} if own.get(key) != stored.get(key))
            raise StoreError(f"{file} differs from this encoder in {differing}: move the folder away")

    def differences(self, other: StoreMeta) -> list[str]:
        """What tells two stores apart, as far as their descriptions say it."""
        pairs = {key: (value, asdict(other)[key]) for key, value in asdict(self).items() if key != "fingerprint"}
        return [key for key, (own, theirs) in pairs.items() if own != theirs]

    @property
    def folder(self) -> str:
        """Name of the store's folder: readable, then the start of the fingerprint."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.")
        return f"{readable}-{self.fingerprint[:16]}"


def _read(file: Path) -> dict[str, Any]:
    """The values of a meta.json whose checksum fits."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        kind = StoreError if isinstance(error, (FileNotFoundError, ValueError)) else UnreadableError
        raise kind(f"cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise StoreError(f"{file} does not describe a feature store")
    stated, given = values.pop("sha256", None), str(values.get("format"))
    whole = stated == _checksum(values)
    if given != FORMAT:
        foreign = whole or (stated is None and given.isdigit())  # else it is a damaged byte that says so
        raise (ForeignError if foreign else StoreError)(
            f"{file} is of format {given}, this version reads {FORMAT}: move the folder away and "
            "extract again, or use the version that wrote it"
        )
    if not whole:
        raise StoreError(f"{file} is altered: its checksum does not fit; move the folder away and extract again")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
