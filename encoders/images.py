"""Image files as the extraction needs them: a digest of their bytes, and their pixels or the reason why there
are none, which can be put on record.

A file cut short must never give features, so PIL's tolerance for truncated files is off here, whatever other
code in the process set.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from jaxtyping import Float
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from encoders.durable import write_whole
from encoders.errors import ImageError, StoreError, UndecodableError
from encoders.preprocess import Preprocess

FAILURES = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What PIL raises for images that it cannot decode, or change."""
BROKEN = (*FAILURES, RuntimeError, MemoryError, TypeError, LookupError, ArithmeticError, zlib.error)
"""What its decoders raise beside for damaged files; raised by other code, these say nothing of an image."""
AT_ONCE = 4096
"""Files that a pool is given at once."""
TAILS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""How whole files of a format end."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def image_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex: what its features are stored under.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError({str(path): _reason(error)}) from error


def find_problems(paths: Sequence[Path], pool: Executor) -> dict[Path, str]:
    """Finds files that are no images, or cut short, before any time is spent on encoding.

    Only headers and endings are read; a file that has no header, or does not end as its format does, is decoded to make
    sure.

    Returns:
        What is wrong with each file that cannot be decoded.

    Raises:
        ImageError: a file cannot be read, which says nothing of what it holds.
    """
    return {path: why for path, why in zip(paths, in_turn(pool, _problem, paths), strict=True) if why is not None}


def decode(
    path: Path, digest: str, preprocesses: Sequence[Preprocess], planes: Sequence[Float[Tensor, "3 h w"]]
) -> None:
    """Decodes one file once, and preprocesses it for several encoders, into the planes given.

    Raises:
        UndecodableError: it is no image that can be decoded.
        ImageError: it is gone, or no longer the file that the digest was taken of.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError({str(path): _reason(error)}) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ImageError({str(path): "it changed while it was being read"})
    image = loaded(path, data)
    try:
        for preprocess, plane in zip(preprocesses, planes, strict=True):
            plane.copy_(preprocess(image))
    except FAILURES as error:
        raise UndecodableError({str(path): _reason(error)}) from error


def loaded(path: Path, data: bytes) -> Image.Image:
    """The image that a file's bytes hold, decoded.

    Raises:
        UndecodableError: there is none.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except BROKEN as error:
        raise UndecodableError({str(path): _reason(error)}) from error
    return image


class Undecodable:
    """The record of images that were left out because they cannot be decoded: a small file for each, by digest.

    Args:
        root: the folder of the feature stores.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "undecodable"

    def reasons(self) -> dict[str, str]:
        """Digest -> name of the file and what is wrong with it."""
        return {file.stem: file.read_text(encoding="utf-8") for file in sorted(self.folder.glob("*.txt"))}

    def record(self, digest: str, path: Path, reason: str) -> None:
        """Puts an image on record.

        Raises:
            StoreError: the disk refuses.
        """
        text = f"{path.name} ({reason})".encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{digest}.txt", lambda handle: handle.write(text))
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}: {error}") from error


@contextmanager
def whole_files_only() -> Iterator[None]:
    """PIL refuses truncated files inside, and does as before outside."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def in_turn(pool: Executor, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in order; a pool's own `map` holds a future for each of a million items at once."""
    for start in range(0, len(items), AT_ONCE):
        yield from pool.map(work, items[start : start + AT_ONCE])


def _problem(path: Path) -> str | None:
    try:
        with path.open("rb") as handle, Image.open(handle) as image:
            tail = TAILS.get(image.format or "")
            handle.seek(0, io.SEEK_END)
            handle.seek(max(0, handle.tell() - 12))
            whole = tail is not None and handle.read().rstrip(b"\x00\r\n ").endswith(tail)
    except BROKEN:
        whole = False
    if whole:
        return None
    try:
        data = path.read_bytes()
    except OSError as error:  # the system's: bytes in memory give none of these
        raise ImageError({str(path): _reason(error)}) from error
    try:
        loaded(path, data)
    except UndecodableError as error:
        return error.problems[str(path)]
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be decoded"
    return (str(error).splitlines() or [type(error).__name__])[0]
