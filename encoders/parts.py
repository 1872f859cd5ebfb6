"""One part of a feature store: a safetensors file that is complete or absent.

A part holds the tokens of many images, rows concatenated, with the images' digests and how many rows each
has. It is written under a temporary name, flushed, and renamed; its header carries a checksum of all its
bytes of data, and its name is made from that checksum, so equal content is one file and writers never share
one. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from encoders.errors import StoreError

STORED: dict[str, tuple[torch.dtype, str, str]] = {
    "fp16": (torch.float16, "F16", "<f2"),
    "fp32": (torch.float32, "F32", "<f4"),
    "bf16": (torch.bfloat16, "BF16", "<u2"),
}
"""Name of a precision -> torch's type, safetensors' name, numpy's type (numpy has no bfloat16: its bits)."""
NUMPY = {"I32": "<i4", "U8": "|u1", **{name: numpy for _, name, numpy in STORED.values()}}
CHECKED = ("digests", "lengths", "tokens")
MAX_HEADER = 1 << 20


class Part:
    """A part opened for reading: the header is parsed and its length checked; data stay on disk until read.

    Attributes:
        count: images in the part.

    Raises:
        StoreError: the file is torn, or is no part.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._header, self._start = _read_header(file)
        self._metadata = self._header.pop("__metadata__", {})
        if set(self._header) != set(CHECKED) or "sha256" not in self._metadata:
            raise StoreError(f"{file} is not a part of a feature store")
        end = self._start + max(entry["data_offsets"][1] for entry in self._header.values())
        if (size := file.stat().st_size) != end:
            raise StoreError(f"{file} is torn: it has {size} bytes where its header says {end}; delete it and rerun")
        self.count = int(self._header["lengths"]["shape"][0])

    def array(self, name: str) -> NDArray[Any]:
        """One tensor of the file, memory-mapped."""
        entry = self._header[name]
        shape, dtype = tuple(entry["shape"]), np.dtype(NUMPY[entry["dtype"]])
        offset = self._start + entry["data_offsets"][0]
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.file, mode="r", dtype=dtype, offset=offset, shape=shape)

    @cached_property
    def digests(self) -> list[str]:
        return [row.tobytes().hex() for row in np.asarray(self.array("digests"))]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Row of the tokens where each image begins, and at the end the number of rows."""
        return np.concatenate([[0], np.cumsum(self.array("lengths"), dtype=np.int64)])

    @cached_property
    def tokens(self) -> NDArray[Any]:
        return self.array("tokens")

    def verify(self) -> None:
        """Reads every byte.

        Raises:
            StoreError: a byte differs from what was written.
        """
        actual = _checksum({name: np.asarray(self.array(name)) for name in CHECKED})
        if actual != self._metadata["sha256"]:
            raise StoreError(f"{self.file} is altered: its checksum does not fit its bytes; delete it and rerun")


def write_part(
    folder: Path,
    digests: Sequence[str],
    tokens: Float[Tensor, "rows d"],
    lengths: Int[Tensor, " images"],
    *,
    dtype: str,
) -> Path:
    """Writes a part atomically and returns its path; a part of equal content is left as it is.

    Raises:
        StoreError: a value is not finite in this precision, or the disk refuses.
    """
    stored = tokens.detach().to("cpu", STORED[dtype][0]).contiguous()
    if not bool(torch.isfinite(stored).all()):
        hint = "; store them with dtype=bf16 or fp32" if bool(torch.isfinite(tokens).all()) else ""
        raise StoreError(f"features for {folder} are not finite in {dtype}{hint}")
    rows = torch.frombuffer(bytearray(b"".join(map(bytes.fromhex, digests))), dtype=torch.uint8)
    tensors = {
        "digests": rows.reshape(len(digests), -1),
        "lengths": lengths.to(torch.int32),
        "tokens": stored,
    }
    bits = {name: t.view(torch.uint16) if t.dtype is torch.bfloat16 else t for name, t in tensors.items()}
    checksum = _checksum({name: tensor.numpy() for name, tensor in bits.items()})
    target = folder / f"part-{checksum[:24]}.safetensors"
    if target.exists():
        return target
    temporary = temporary_name(folder)
    try:
        save_file(tensors, temporary, metadata={"sha256": checksum})
        commit(temporary, target)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {target}: {error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def commit(temporary: Path, target: Path) -> None:
    """Makes a written file durable, then visible under its name in one step."""
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary_name(folder: Path) -> Path:
    """A name that readers ignore and that says which process is writing."""
    return folder / f".tmp-{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


def clean_temporaries(folder: Path) -> None:
    """Removes what killed processes of this machine left; files of living ones and of other machines stay."""
    own = f".tmp-{socket.gethostname()}-"
    for file in folder.glob(".tmp-*"):
        pid = file.name.removeprefix(own).partition("-")[0]
        if file.name.startswith(own) and pid.isdigit() and not _alive(int(pid)):
            file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > MAX_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(handle.read(length))
        for name in CHECKED:
            entry = header[name]
            first, last = entry["data_offsets"]
            size = int(np.prod(entry["shape"], dtype=np.int64)) * np.dtype(NUMPY[entry["dtype"]]).itemsize
            if not 0 <= first <= last or last - first != size:
                raise ValueError(f"its {name} do not fit their place")
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise StoreError(f"{file} is torn: its header cannot be read ({error}); delete it and rerun") from error
    return header, 8 + length


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 over name, type, shape and bytes of each array."""
    digest = hashlib.sha256()
    for name in CHECKED:
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.itemsize, list(array.shape)]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
