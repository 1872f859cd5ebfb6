"""Digests of image files, remembered while the files stay as they are.

Handed paths; hands on the digest of each file's bytes. What was digested is kept in a folder, under the file's path,
size, times of change and inode, so that the next run reads none of it again. Processes that start together divide the
reading: each begins with its share, writes that down, and then reads only what no other has written down meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from encoders.durable import sweep, write_whole
from encoders.errors import ImageError
from encoders.images import image_digest, in_turn

LOT = 256
"""Files in a row that are one process's to begin with."""
RUN = 1024
"""Files that are digested before they are written down."""
MANY = 64
"""Files of a cache that are made one when there are more."""
SETTLED = 2.0
"""Seconds since a file last changed from which on another change must show in its times, however coarse they are."""
KEY, DIGEST = 16, 32


def digest_all(
    paths: Sequence[Path],
    pool: Executor,
    *,
    cache: Path | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Literal["bar", "none"] = "none",
) -> dict[Path, str]:
    """The digests of many files, in order.

    Args:
        cache: the folder that remembers them; without one every file is read.
        share: this process's number, and how many divide the reading if they run together.

    Raises:
        ImageError: some cannot be read; it names them all.
    """
    distinct = list(dict.fromkeys(paths))
    known = DigestCache(cache)
    keys = list(in_turn(pool, file_key, distinct)) if cache is not None else [None] * len(distinct)
    found, problems = dict[int, str](), dict[str, str]()
    index, count = share

    def unknown(places: Sequence[int]) -> list[int]:
        """Those of these files that nobody has digested."""
        found.update((place, digest) for place in places if (digest := known.get(keys[place])) is not None)
        return [place for place in places if place not in found]

    with tqdm(total=len(distinct), unit="img", desc="digests", disable=progress == "none", delay=1) as bar:
        for own in (True, False):
            left = [place for place in range(len(distinct)) if (place // LOT % count == index) == own]
            start = 0 if own else len(left) * index // count  # whoever else is done with his share begins elsewhere
            known.refresh()
            left = unknown([*left[start:], *left[:start]])
            while left:
                run, left = left[:RUN], left[RUN:]
                for place, digest in zip(run, in_turn(pool, _digest_or_error, [distinct[p] for p in run]), strict=True):
                    if isinstance(digest, ImageError):
                        problems |= digest.problems
                    else:
                        found[place] = digest
                known.add({keys[place]: found[place] for place in run if place in found})
                if not own and known.refresh():
                    left = unknown(left)
                bar.update(len(found) - bar.n)
    known.tidy()
    if problems:
        raise ImageError(problems)
    return {path: found[place] for place, path in enumerate(distinct)}


class DigestCache:
    """Digests by key, in files that several processes write into one folder; None remembers nothing.

    A file is a checksum and then keys with their digests; one that is torn, or cannot be read or written, only means
    that images are read again.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._digests: dict[bytes, bytes] = {}

    def get(self, key: bytes | None) -> str | None:
        """What is known of a file."""
        digest = None if key is None else self._digests.get(key)
        return None if digest is None else digest.hex()

    def refresh(self) -> bool:
        """Takes up what other processes have written; whether there was anything."""
        if self._folder is None:
            return False
        fresh: list[str] = []
        with suppress(OSError):
            fresh += sorted(name for name in {*os.listdir(self._folder)} - self._seen if not name.startswith("."))
        for name in fresh:
            self._seen.add(name)
            with suppress(OSError):
                self._take((self._folder / name).read_bytes())
        return bool(fresh)

    def add(self, digests: Mapping[bytes | None, str]) -> None:
        """Writes down what this process has found of files that have a key."""
        fresh = {key: bytes.fromhex(digest) for key, digest in digests.items() if key is not None}
        self._digests |= fresh
        self._write(fresh)

    def tidy(self) -> None:
        """Makes one file of many, and clears away what killed processes left."""
        if self._folder is None or len(self._seen) <= MANY:
            return
        before = set(self._seen)
        whole = self._write(self._digests)
        if whole is not None:
            with suppress(OSError):
                for name in before - {whole}:
                    (self._folder / name).unlink(missing_ok=True)
                sweep(self._folder)

    def _take(self, content: bytes) -> None:
        checksum, rows = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(rows).digest() == checksum and not len(rows) % (KEY + DIGEST):
            for start in range(0, len(rows), KEY + DIGEST):
                self._digests[rows[start : start + KEY]] = rows[start + KEY : start + KEY + DIGEST]

    def _write(self, digests: Mapping[bytes, bytes]) -> str | None:
        """The name of the file, whose content it tells; None where nothing was written."""
        if self._folder is None or not digests:
            return None
        rows = b"".join(key + digest for key, digest in sorted(digests.items()))
        checksum = hashlib.sha256(rows).digest()
        name = f"{checksum[:12].hex()}.digests"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / name, lambda handle: handle.write(checksum + rows))
        except OSError:
            return None
        self._seen.add(name)
        return name


def file_key(path: Path) -> bytes | None:
    """What a file's digest is remembered under; None where it is not there, or changed too short a time ago."""
    try:
        state = path.stat()
    except OSError:
        return None
    if time.time() - max(state.st_mtime, state.st_ctime) < SETTLED:
        return None
    stamp = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}\0".encode()
    return hashlib.sha256(stamp + os.fsencode(os.path.abspath(path))).digest()[:KEY]


def _digest_or_error(path: Path) -> str | ImageError:
    try:
        return image_digest(path)
    except ImageError as error:
        return error
