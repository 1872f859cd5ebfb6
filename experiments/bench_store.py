"""`bench store`: random batches against a numpy memmap of the same bytes, opening at a million entries, writing.

Warm reading takes a millisecond, in which other work on the machine is rare but heavy, and whose speed drifts over
seconds. So both sides take turns, the best of a turn's batches counts on either, and of all turns the middle ratio.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from encoders.store import FeatureStore, StoreMeta
from experiments.bench import Figure

BATCH = 64
BATCHES = 32
TURNS = 20
MILLION = 1_000_000
IMAGES_A_PART = 1024


def store_meta(tokens: int, width: int) -> StoreMeta:
    """A store of so many tokens an image, in fp16."""
    boxes = ((0.5, 0.5, 1.0, 1.0),) * tokens
    return StoreMeta(f"bench:{tokens}x{width}", "00" * 32, width, (1, tokens), 0, "fp16", boxes, {})


def digests(count: int) -> list[str]:
    return [hashlib.sha256(number.to_bytes(8, "big")).hexdigest() for number in range(count)]


def run(folder: Path, *, images: int | None, rounds: int) -> list[Figure]:
    """The figures; `images` is how many of ViT-S/16's size are written."""
    count = images or 2000
    figures = read_figures(folder / "large", count=count, tokens=197, width=384, rounds=rounds, wanted=0.8)
    figures += read_figures(folder / "small", count=4 * count, tokens=17, width=128, rounds=rounds, wanted=None)
    return figures + open_figures(folder / "million")


def read_figures(
    folder: Path, *, count: int, tokens: int, width: int, rounds: int, wanted: float | None
) -> list[Figure]:
    """Writing and reading entries of one size."""
    names, shape = digests(count), (count, tokens, width)
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    folder.mkdir()
    store = FeatureStore(folder, store_meta(tokens, width))
    size = f"{tokens} x {width} fp16"
    writing = []
    for number, start in enumerate(range(0, count, IMAGES_A_PART // 2)):
        part = values[start : start + IMAGES_A_PART // 2]
        own = timed(partial(store.write_part, names[start : start + len(part)], torch.from_numpy(part)))
        raw = timed(partial(_write_raw, folder / f"raw-{number}", part))
        writing.append((raw / own, own / part.nbytes))
    store.part_list.write_index()
    values.tofile(folder / "memmap")
    memmap = np.memmap(folder / "memmap", dtype=np.float16, mode="r", shape=shape)
    store = FeatureStore(folder, store.meta)
    draw = np.random.default_rng(1)
    everything = np.random.default_rng(2).permutation(count)
    first = timed(lambda: [store.read([names[i] for i in rows], precision="stored") for rows in _batches(everything)])
    plain = timed(lambda: [memmap[rows] for rows in _batches(everything)])
    readers: dict[str, Callable[[np.ndarray, list[str]], object]] = {
        "stored": lambda _, wanted: store.read(wanted, precision="stored"),
        "memmap": lambda rows, _: memmap[rows],
        "floats": lambda _, wanted: store.read(wanted),
        "memmap floats": lambda rows, _: torch.from_numpy(memmap[rows]).float(),
    }
    turns: list[dict[str, float]] = []
    for _ in range(rounds * TURNS):
        best = {}
        for name in draw.permutation(list(readers)):  # so that none always finds another's memory and cache
            chosen = [draw.integers(count, size=BATCH) for _ in range(BATCHES)]
            best[name] = min(timed(partial(readers[name], rows, [names[i] for i in rows])) for rows in chosen)
        turns.append(best)
    return [
        Figure(
            f"random batches of {BATCH} ({size}), warm, ÷ numpy memmap of the same bytes",
            median(best["memmap"] / best["stored"] for best in turns),
            wanted=wanted,
        ),
        Figure(
            f"the same as float32 ÷ numpy memmap turned into float32 ({size})",
            median(best["memmap floats"] / best["floats"] for best in turns),
            wanted=wanted,
        ),
        Figure(f"the same ({size})", BATCH * values[0].nbytes / median(b["stored"] for b in turns) / 1e9, "GB/s"),
        Figure(f"first reading of each image, checksums compared, ÷ numpy memmap ({size})", plain / first),
        Figure(
            f"writing parts, checksums and fsync included, ÷ raw write and fsync ({size})",
            median(ratio for ratio, _ in writing),
        ),
        Figure(f"the same ({size})", 1e-9 / median(s for _, s in writing), "GB/s"),
    ]


def open_figures(folder: Path) -> list[Figure]:
    """A store of a million images, whose tokens are as small as can be: opening does not touch them."""
    names = digests(MILLION)
    meta = store_meta(1, 1)
    store = FeatureStore(folder, meta)
    store.prepare()
    for start in range(0, MILLION, IMAGES_A_PART):
        part = names[start : start + IMAGES_A_PART]
        tokens = np.full((len(part), 1), start // IMAGES_A_PART, np.float16)
        store.write_encoded(part, [tokens], np.ones(len(part), np.int32))
    without = timed(lambda: FeatureStore(folder, meta))
    FeatureStore(folder, meta).part_list.write_index()
    opening, reading = [], []
    wanted = [names[place] for place in np.random.default_rng(0).integers(MILLION, size=BATCH)]
    for _ in range(5):
        opening.append(timed(partial(FeatureStore, folder, meta)))
        reading.append(timed(partial(FeatureStore(folder, meta).read, wanted)))
    missing = timed(lambda: FeatureStore(folder, meta).missing(names))
    return [
        Figure(f"opening 10⁶ entries in {-(-MILLION // IMAGES_A_PART)} parts", 1000 * median(opening), "ms"),
        Figure("the same without an index", 1000 * without, "ms"),
        Figure(f"first batch of {BATCH} after that, each from a part not opened yet", 1000 * median(reading), "ms"),
        Figure("asking which of 10⁶ images are missing", 1000 * missing, "ms"),
    ]


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def _write_raw(file: Path, array: np.ndarray) -> None:
    with file.open("wb") as handle:
        handle.write(array.data)
        handle.flush()
        os.fsync(handle.fileno())
