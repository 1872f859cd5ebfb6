"""Image files as the extraction needs them: a digest of their bytes, and their pixels or the reason why there
are none.

A file cut short must never give features, so PIL's tolerance for truncated files is off here, whatever other
code in the process set.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from encoders.errors import ImageError
from encoders.preprocess import Preprocess

FAILURES = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What PIL raises for files that it cannot decode."""
TAILS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""How whole files of a format end."""


def image_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex: what its features are stored under.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError({str(path): _reason(error)}) from error


def digest_all(paths: Sequence[Path], pool: Executor) -> dict[Path, str]:
    """The digests of many files, in order.

    Raises:
        ImageError: some cannot be read; it names them all.
    """
    distinct = list(dict.fromkeys(paths))
    digests, problems = {}, {}
    for path, digest in zip(distinct, pool.map(_digest_or_error, distinct), strict=True):
        if isinstance(digest, ImageError):
            problems.update(digest.problems)
        else:
            digests[path] = digest
    if problems:
        raise ImageError(problems)
    return digests


def check_all(paths: Sequence[Path], pool: Executor) -> None:
    """Finds files that are no images, or cut short, before any time is spent on encoding.

    Only headers and endings are read; a file that does not end as its format does is decoded to make sure.

    Raises:
        ImageError: some cannot be decoded; it names them all.
    """
    found = [problem for problem in pool.map(_problem, paths) if problem is not None]
    if found:
        raise ImageError(dict(found))


def decode(path: Path, digest: str, preprocesses: Sequence[Preprocess]) -> list[Float[Tensor, "3 h w"]]:
    """One file decoded once, and preprocessed for several encoders.

    Raises:
        ImageError: it cannot be decoded, or is no longer the file that the digest was taken of.
    """
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ImageError({str(path): "it changed while it was being read"})
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return [preprocess(image) for preprocess in preprocesses]
    except ImageError:
        raise
    except FAILURES as error:
        raise ImageError({str(path): _reason(error)}) from error


@contextmanager
def whole_files_only() -> Iterator[None]:
    """PIL refuses truncated files inside, and does as before outside."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _digest_or_error(path: Path) -> str | ImageError:
    try:
        return image_digest(path)
    except ImageError as error:
        return error


def _problem(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as handle, Image.open(handle) as image:
            tail = TAILS.get(image.format or "")
            handle.seek(0, io.SEEK_END)
            handle.seek(max(0, handle.tell() - 12))
            whole = tail is not None and handle.read().rstrip(b"\x00\r\n ").endswith(tail)
        if not whole:
            with Image.open(path) as image:
                image.load()
    except FAILURES as error:
        return str(path), _reason(error)
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be decoded"
    return (str(error).splitlines() or [type(error).__name__])[0]
