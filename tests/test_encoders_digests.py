"""Digests that are remembered: a file that stays as it is is read once, one that changed is read again."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from encoders import digests
from encoders.digests import digest_all
from encoders.errors import ImageError


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order; files count as settled at once."""
    paths: list[Path] = []
    right = digests.image_digest
    monkeypatch.setattr(digests, "image_digest", lambda path: paths.append(path) or right(path))
    monkeypatch.setattr(digests, "SETTLED", float("-inf"))
    return paths


def files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(f"{number:04d}".encode())
    return paths


def expected(paths: list[Path]) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_file_is_read_once_and_again_when_it_changed(
    tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RUN", 4)
    paths, cache = files(tmp_path / "a", 10), tmp_path / "cache"
    for _ in range(2):
        assert digest_all([*paths, paths[0]], pool, cache=cache) == expected(paths)
    assert read == paths
    before = paths[3].stat()
    paths[3].write_bytes(b"hide")  # as long as before, and with the time of before, but for the one that nobody can set
    os.utime(paths[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    grown = [*paths, *files(tmp_path / "b", 2)]
    assert digest_all(grown, pool, cache=cache) == expected(grown)
    assert read[10:] == [paths[3], *grown[10:]]
    assert list(digest_all(grown[::-1], pool, cache=cache)) == grown[::-1] and len(read) == 13
    monkeypatch.chdir(tmp_path / "a")
    assert digest_all([Path("7.jpg")], pool, cache=cache) == {Path("7.jpg"): expected(paths)[paths[7]]}
    assert len(read) == 13


def test_without_a_cache_every_file_is_read(tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path]) -> None:
    paths = files(tmp_path / "a", 3)
    for _ in range(2):
        assert digest_all(paths, pool) == expected(paths)
    assert read == paths * 2


def test_a_file_that_changed_just_now_may_change_again_unseen(
    tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 60.0)
    paths, cache = files(tmp_path / "a", 3), tmp_path / "cache"
    for _ in range(2):
        digest_all(paths, pool, cache=cache)
    assert read == paths * 2 and not cache.exists()
    now = time.time()
    monkeypatch.setattr(digests.time, "time", lambda: now + 61)
    for _ in range(2):
        digest_all(paths, pool, cache=cache)
    assert read == paths * 3


def test_a_torn_cache_only_costs_time(tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path]) -> None:
    paths, cache = files(tmp_path / "a", 3), tmp_path / "cache"
    digest_all(paths, pool, cache=cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for place in range(0, len(whole), 5):
        for torn in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            read.clear()
            file.write_bytes(torn)
            assert digest_all(paths, pool, cache=cache) == expected(paths) and read == paths
            assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path]) -> None:
    paths, cache = files(tmp_path / "a", 3), tmp_path / "cache"
    cache.write_text("no folder")
    for _ in range(2):
        assert digest_all(paths, pool, cache=cache) == expected(paths)
    assert read == paths * 2


def test_processes_that_run_together_divide_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[Path]
) -> None:
    """Each reads its two lots; of the other's it finds all that were written down before it was done with its own."""
    monkeypatch.setattr(digests, "LOT", 8)
    monkeypatch.setattr(digests, "RUN", 8)
    paths, cache = files(tmp_path / "a", 32), tmp_path / "cache"
    both_started, right = threading.Barrier(2), digests.image_digest
    reads: dict[str, list[Path]] = {"0": [], "1": []}

    def counted(path: Path) -> str:
        number = threading.current_thread().name[0]
        if not reads[number]:
            both_started.wait(30)
        reads[number].append(path)
        return right(path)

    monkeypatch.setattr(digests, "image_digest", counted)
    found: dict[int, dict[Path, str]] = {}

    def work(number: int) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix=str(number)) as own:
            found[number] = digest_all(paths, own, cache=cache, share=(number, 2))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1] == expected(paths) and list(found[1]) == paths
    assert reads["0"][:16] == [*paths[:8], *paths[16:24]] and reads["1"][:16] == [*paths[8:16], *paths[24:]]
    assert len(reads["0"]) + len(reads["1"]) <= 32 + 2 * 8  # at worst each reads again what the other had in hand
    late = digest_all(paths, ThreadPoolExecutor(1, thread_name_prefix="0"), cache=cache, share=(0, 8))
    assert late == expected(paths) and len(read) == len(reads["0"]) + len(reads["1"])


def test_many_small_files_become_one(
    tmp_path: Path, pool: ThreadPoolExecutor, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MANY", 4)
    paths, cache = files(tmp_path / "a", 6), tmp_path / "cache"
    for number, path in enumerate(paths):
        digest_all([path], pool, cache=cache)
        assert len(list(cache.iterdir())) == (number + 1 if number < 4 else number - 3)
    assert digest_all(paths, pool, cache=cache) == expected(paths) and read == paths


def test_files_that_cannot_be_read_are_all_named(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    paths = files(tmp_path / "a", 3)
    gone = [tmp_path / "x.jpg", tmp_path / "y.jpg"]
    with pytest.raises(ImageError) as caught:
        digest_all([gone[0], *paths, gone[1]], pool, cache=tmp_path / "cache")
    assert list(caught.value.problems) == [str(path) for path in gone]
