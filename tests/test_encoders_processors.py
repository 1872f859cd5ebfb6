"""Decoding threads are a process's share of the processors that it may use."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from extraction_workers import Told, numbered

from encoders.extract import extract
from encoders.processors import MOST, decoding_pool, decoding_threads


@pytest.mark.parametrize(
    ("allowed", "processes", "threads"),
    [(16, None, 16), (16, "1", 16), (96, "4", 24), (2, "8", 1), (256, None, MOST), (6, "none", 6)],
)
def test_threads_share_the_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: int, processes: str | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(allowed)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 512)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert decoding_threads() == threads
    asked: list[Any] = []

    def watched(count: int) -> ThreadPoolExecutor:
        asked.append(count)
        return decoding_pool(count)

    monkeypatch.setattr("encoders.extract.decoding_pool", watched)
    extract(numbered(tmp_path / "images", 1), [Told("told")], root=tmp_path / "root", batch_size=1, progress="none")
    assert asked[0] == threads


def test_without_affinity_there_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert decoding_threads() == 5


def test_torch_starts_no_threads_beside_those_that_decode() -> None:
    """Torch's own number is the process's: it is as before, here and in threads that decode nothing."""
    before, meet = torch.get_num_threads(), threading.Barrier(2)

    def work(_: int) -> int:
        meet.wait(timeout=60)  # each thread has its turn
        torch.zeros(1_000_000).copy_(torch.ones(1_000_000))
        return torch.get_num_threads()

    try:
        torch.set_num_threads(3)
        torch.zeros(1_000_000).copy_(torch.ones(1_000_000))
        alone = psutil.Process().num_threads()
        with decoding_pool(2) as pool:
            assert list(pool.map(work, range(2))) == [1, 1]
            assert psutil.Process().num_threads() == alone + 2
            with ThreadPoolExecutor(1) as plain:
                assert plain.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
