"""Hateful Memes of the world: JSON lines and PNG pictures with the words written on them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from experiments.world.files import write_json, write_json_lines, write_pictures
from experiments.world.memes import Meme, draw_triple
from experiments.world.scene import OPEN

SPLITS = ("train", "dev_seen", "test_seen")


def memes_of(seed: int, split: int, count: int) -> list[Meme]:
    """The first `count` memes of a split: triples of a meme and its confounders."""
    triples = (draw_triple(np.random.default_rng([seed, 5, split, k]), OPEN) for k in range(-(-count // 3)))
    return [meme for triple in triples for meme in triple][:count]


def write_memes(folder: Path, sizes: Mapping[str, int], *, seed: int, pool: Executor) -> None:
    """`{train,dev_seen,test_seen}.jsonl`, `img/%05d.png`, and the factor that each meme speaks of."""
    factors: dict[str, dict[str, str]] = {}
    for number, split in enumerate(SPLITS):
        records, named = [], []
        for k, meme in enumerate(memes_of(seed, number, sizes[split])):
            ident = 20_000 * number + k + 1
            named.append((f"img/{ident:05d}.png", meme.scene))
            records.append({"id": ident, "img": f"img/{ident:05d}.png", "label": meme.label, "text": meme.text})
            factors[str(ident)] = {"factor": meme.factor, "facts": "1"}
        write_pictures(folder, named, pool=pool)
        write_json_lines(folder / f"{split}.jsonl", records)
    write_json(folder / "factors.json", factors)
