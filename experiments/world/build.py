"""Writes the whole world: six dataset folders of a given scale and seed, complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments.world.write_captions import write_coco, write_flickr30k, write_snli_ve
from experiments.world.write_gqa import write_gqa
from experiments.world.write_memes import write_memes
from experiments.world.write_vqa import write_vqa

WORLD_VERSION = 3
SIZES: dict[str, dict[str, int]] = {
    "flickr30k": {"train": 1000, "val": 100, "test": 200},
    "coco": {"train": 600, "restval": 200, "val": 100, "test": 200},
    "vqa": {"train2014": 1500, "val2014": 240},
    "gqa": {"train": 1400, "val": 150, "testdev": 240},
    "hateful_memes": {"train": 2400, "dev_seen": 240, "test_seen": 600},
}
RECORDS_PER_IMAGE = {"vqa": 5, "gqa": 5, "snli_ve": 6}
MARK = "world.json"


class WorldError(ValueError):
    """The folder asked for cannot hold the world."""


def build_world(out: Path, *, seed: int = 0, scale: float = 1.0, workers: int = 2) -> Path:
    """Writes the six folders under `out`, unless a world of this seed and scale is there already.

    Each dataset is written under a temporary name and renamed when whole; `world.json` comes last.
    """
    mark = {"version": WORLD_VERSION, "seed": seed, "scale": scale}
    if (out / MARK).exists():
        found = json.loads((out / MARK).read_text())
        if found != mark:
            raise WorldError(f"{out} holds another world ({found}, asked for {mark}): name another folder")
        return out
    out.mkdir(parents=True, exist_ok=True)
    sizes = {name: {s: max(6, round(n * scale)) for s, n in split.items()} for name, split in SIZES.items()}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name, write in _writers(sizes, seed, pool).items():
            unfinished = out / f".{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.rmtree(out / name, ignore_errors=True)
            write(unfinished)
            unfinished.rename(out / name)
    (out / MARK).write_text(json.dumps(mark) + "\n")
    return out


def _writers(sizes: dict[str, dict[str, int]], seed: int, pool: Executor) -> dict[str, Callable[[Path], None]]:
    per = RECORDS_PER_IMAGE
    return {
        "flickr30k": lambda to: write_flickr30k(to, sizes["flickr30k"], seed=seed, pool=pool),
        "coco": lambda to: write_coco(to, sizes["coco"], seed=seed, pool=pool),
        "vqa": lambda to: write_vqa(to, sizes["vqa"], seed=seed, questions=per["vqa"], pool=pool),
        "gqa": lambda to: write_gqa(to, sizes["gqa"], seed=seed, questions=per["gqa"], pool=pool),
        "snli_ve": lambda to: write_snli_ve(to, sizes["flickr30k"], seed=seed, hypotheses=per["snli_ve"]),
        "hateful_memes": lambda to: write_memes(to, sizes["hateful_memes"], seed=seed, pool=pool),
    }
