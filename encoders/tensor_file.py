"""Safetensors files, mapped into memory and written without a copy.

The library's own reader copies each slice that it is asked for (`get_slice` reads at 0.4 of a memory-mapped
array's speed), and its writer holds the file in memory twice; the format itself is a length, a JSON header and
bytes, so reading is one mapping and writing is a few `write`s. Nothing is ever unpickled.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import mmap
import os
import struct
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.errors import StoreError, UnreadableError

NUMPY = {"F16": "<f2", "F32": "<f4", "BF16": "<u2", "U64": "<u8", "I32": "<i4", "U32": "<u4", "U8": "|u1"}
"""Name of a type in the format -> numpy's (numpy has no bfloat16: its bits)."""
MAX_HEADER = 1 << 27
ALIGNMENT = 64
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Tensor(NamedTuple):
    """One tensor to be written, in chunks along its first axis."""

    kind: str
    shape: tuple[int, ...]
    chunks: Sequence[NDArray[Any]]


class TensorFile:
    """A safetensors file opened for reading: its header is parsed and its length checked, data stay on disk.

    Attributes:
        metadata: the strings that the writer added.

    Raises:
        StoreError: the file is torn, or is no safetensors file.
        UnreadableError: the system does not let it be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._bytes = _mapped(file)
        self.size = len(self._bytes)
        try:
            (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
            if length > min(MAX_HEADER, self.size):
                raise ValueError("its header is too long")
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
            self.metadata: dict[str, str] = dict(header.pop("__metadata__", {}))
            self._entries = {name: _entry(value) for name, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise StoreError(f"{file} is torn: its header cannot be read ({error}); {REPAIR}") from error
        self._start, end = 8 + length, 8 + length
        for kind, shape, first, last in sorted(self._entries.values(), key=lambda entry: entry[2:]):
            if self._start + first != end or last - first != _num_bytes(kind, shape):
                raise StoreError(f"{file} is torn: its tensors do not fit their places; {REPAIR}")
            end = self._start + last
        if self.size != end:
            raise StoreError(f"{file} is torn: it has {self.size} bytes where its header says {end}; {REPAIR}")

    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> type and shape."""
        return {name: (kind, shape) for name, (kind, shape, _, _) in self._entries.items()}

    def array(self, name: str) -> NDArray[Any]:
        """One tensor, memory-mapped, read-only."""
        kind, shape, first, last = self._entries[name]
        flat = self._bytes[self._start + first : self._start + last]
        return flat.view(NUMPY[kind]).reshape(shape)


class _Mapping:
    """A file's pages, read-only, given back with the last array of them; `mmap.mmap` would hold the file open."""

    def __init__(self, descriptor: int, size: int) -> None:
        address = LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        weakref.finalize(self, LIBC.munmap, address, size).atexit = False
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}


def _mapped(file: Path) -> NDArray[np.uint8]:
    """A file's bytes."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            return np.asarray(_Mapping(descriptor, size)) if size else np.empty(0, np.uint8)
        finally:
            os.close(descriptor)
    except OSError as error:
        hint = "; allow more open files with ulimit -n" if error.errno == errno.EMFILE else ""
        raise UnreadableError(f"cannot read {file}: {error}{hint}") from error


REPAIR = "run python -m encoders.features repair on its folder, then extract again"


def write_tensors(handle: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file; give wide types first, so that all are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, tensor in tensors.items():
        end = place + _num_bytes(tensor.kind, tensor.shape)
        assert sum(chunk.nbytes for chunk in tensor.chunks) == end - place, (name, tensor.shape)
        header[name] = {"dtype": tensor.kind, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    handle.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        for chunk in tensor.chunks:
            handle.write(raw(chunk))


def raw(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8).data


def _entry(value: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    kind, (first, last) = str(value["dtype"]), value["data_offsets"]
    shape = tuple(value["shape"])
    if kind not in NUMPY or not all(isinstance(size, int) and size >= 0 for size in (*shape, first, last)):
        raise ValueError(f"it describes a tensor as {dict(value)}")
    return kind, shape, first, last


def _num_bytes(kind: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(NUMPY[kind]).itemsize
