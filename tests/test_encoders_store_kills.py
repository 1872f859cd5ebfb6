"""Extraction by two processes that are killed at random moments: each loses at most two parts a store."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from conftest import SOAK
from extraction_workers import numbered, pair, work

from encoders.extract import extract
from encoders.images import image_digest
from encoders.store import FeatureStore

IMAGES, KILLS, PART_IMAGES = (2000, 30, 64) if SOAK else (240, 3, 16)
PART_BYTES = 8 * 64 * 5 * 4
"""One batch of the larger encoder (8 images of 64 tokens of width 5 in fp32), whose parts are then smaller."""
IMAGES_A_PART = {"small": PART_IMAGES, "large": 8}
Log = list[tuple[str, int]]


class Attempt:
    """Two processes that share the work, and the log of what they encode."""

    def __init__(self, root: Path, paths: list[Path], log: Path, *, batch_size: int = 8) -> None:
        self._log = log
        log.write_bytes(b"")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["encoders.extract"])
        share = [(root, paths, log, index, 2, batch_size, PART_IMAGES, PART_BYTES) for index in range(2)]
        self.processes = [context.Process(target=work, args=each) for each in share]
        for process in self.processes:
            process.start()

    def encoded(self) -> Log:
        rows = (line.split() for line in self._log.read_text().splitlines())
        return [(alias, int(number)) for alias, number in rows]

    def wait_for(self, count: int) -> None:
        """Until so many images were encoded, or nobody is left to encode any."""
        while len(self.encoded()) < count and any(process.is_alive() for process in self.processes):
            time.sleep(0.001)

    def finish(self) -> list[int | None]:
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]


def stored(root: Path, digests: list[str]) -> set[tuple[str, int]]:
    """What a reader finds at this moment."""
    found = set()
    for encoder in pair(None):
        missing = set(FeatureStore(root, encoder).missing(digests))
        found |= {(encoder.alias, number) for number, digest in enumerate(digests) if digest not in missing}
    return found


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_kills_lose_a_part_being_collected_and_one_being_written(tmp_path: Path) -> None:
    paths, log = numbered(tmp_path / "images", IMAGES), tmp_path / "log"
    digests = [image_digest(path) for path in paths]
    calm = Attempt(tmp_path / "calm", paths, log)
    assert calm.finish() == [0, 0]
    everything = {(encoder.alias, number) for encoder in pair(None) for number in range(IMAGES)}
    assert sorted(calm.encoded()) == sorted(everything)  # each once

    draw, roots, kills, lost = random.Random(0), [tmp_path / "0"], 0, 0
    while kills < KILLS:
        root = roots[-1]
        before = stored(root, digests)
        attempt = Attempt(root, paths, log)
        attempt.wait_for(draw.randrange(1, 1 + 2 * len(everything - before) // min(10, KILLS - kills + 1)))
        for victim in draw.sample(attempt.processes, 2 if draw.random() < 0.9 else 1):
            time.sleep(draw.random() * 0.02)
            if victim.is_alive():
                victim.kill()
                kills += 1
        codes = attempt.finish()
        assert set(codes) <= {0, -9}
        encoded, after = attempt.encoded(), stored(root, digests)
        assert len(set(encoded)) == len(encoded) and not set(encoded) & before  # nothing twice, nothing again
        assert before | set(encoded) >= after >= before
        for alias, images_a_part in IMAGES_A_PART.items():
            again = sum(1 for own, number in encoded if own == alias and (own, number) not in after)
            assert again <= 2 * images_a_part * codes.count(-9)  # one part collected, one being written
            lost += again
        if codes == [0, 0]:  # it was finished before the kills came: the others go into another extraction
            roots.append(tmp_path / str(len(roots)))
    assert Attempt(roots[-1], paths, log).finish() == [0, 0]
    for root in roots:
        assert content(root) == content(tmp_path / "calm") and not list(root.rglob(".*"))
    assert lost > 0
    root = roots[0]
    for encoder in pair(None):
        assert FeatureStore(root, encoder).verify() == -(-IMAGES // IMAGES_A_PART[encoder.alias])
        read = FeatureStore(root, encoder).read(digests).tokens
        assert read[:, 0, 0].tolist() == list(range(IMAGES))


@pytest.mark.parametrize("batch_size", [3, 8])
def test_the_number_of_processes_does_not_change_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """Whether a part of images is whole batches, as of 8, or is not, as of 3."""
    paths, log = numbered(tmp_path / "images", 50), tmp_path / "log"
    assert Attempt(tmp_path / "two", paths, log, batch_size=batch_size).finish() == [0, 0]
    monkeypatch.setattr("encoders.plan.PART_BYTES", PART_BYTES)
    options = {"batch_size": batch_size, "part_images": PART_IMAGES, "progress": "none"}
    extract(paths, pair(None), root=tmp_path / "one", **options)  # type: ignore[arg-type]
    assert content(tmp_path / "one") == content(tmp_path / "two")
