"""Decoding threads are a process's share of the processors that it may use."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from extraction_workers import Told, numbered

from encoders.extract import extract
from encoders.processors import MOST, decoding_threads


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

    class Watched(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            asked.append(count)
            super().__init__(count)

    monkeypatch.setattr("encoders.extract.ThreadPoolExecutor", Watched)
    extract(numbered(tmp_path / "images", 1), [Told("told")], root=tmp_path / "root", batch_size=1, progress="none")
    assert asked[0] == threads


def test_without_affinity_there_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert decoding_threads() == 5
