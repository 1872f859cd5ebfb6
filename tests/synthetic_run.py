"""A run folder with planted truth, written without any model.

Each example is decided by one factor; an encoder either sees a factor or does not. A coalition answers
rightly with probability `SEEN` where a member sees the factor (for `relation`, where two particular members
are both present) and with the task's chance otherwise. So `dino` repeats what `vit` sees, `convnext` alone
sees colour, `clip` alone reads, and relation questions are pure synergy of `vit` and `convnext`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ENCODERS = ("vit", "clip", "dino", "convnext")
SEES = {
    "shape": ({"vit"}, {"dino"}),
    "colour": ({"convnext"},),
    "text": ({"clip"},),
    "relation": ({"vit", "convnext"},),
}
SEEN = 0.9
CHANCE = {"gqa": 0.25, "snli_ve": 1 / 3, "vqa": 0.2, "hateful_memes": 0.5, "flickr30k": 0.03, "coco": 0.03}
ANSWERED_BY_SET = "hateful_memes"
RETRIEVAL = ("flickr30k", "coco")


def coalitions(aliases: Sequence[str] = ENCODERS) -> list[tuple[str, ...]]:
    return [c for size in range(len(aliases) + 1) for c in combinations(aliases, size)]


def sees(coalition: Sequence[str], factor: str) -> bool:
    return any(needed <= set(coalition) for needed in SEES[factor])


class TaskWriter:
    """Writes the cells of one task; the same luck per example in every coalition, so that differences are
    paired."""

    def __init__(
        self, folder: Path, task: str, *, num_rows: int, seed: int, split: str, strings: str = ""
    ) -> None:
        self.folder, self.task, self.seed, self.split = folder, task, seed, split
        rng = np.random.default_rng([seed, num_rows, sum(map(ord, task + split))])
        self.rng = rng
        self.num_rows = num_rows
        self.directions = ["i2t", "t2i"] * (num_rows // 2) if task in RETRIEVAL else [""] * num_rows
        layout = np.random.default_rng(num_rows)
        self.factors = layout.choice(list(SEES), size=num_rows)
        self.targets = layout.integers(0, 2, size=num_rows).astype(str)
        self.luck = rng.random(num_rows)
        self.guess = rng.random(num_rows)
        self.noise = rng.normal(size=num_rows)
        self.strings = strings

    def columns(self, coalition: Sequence[str]) -> dict[str, list[Any]]:
        base = CHANCE[self.task]
        seen = np.array([sees(coalition, factor) for factor in self.factors])
        right = np.where(seen, self.luck < SEEN, self.guess < base)
        score: list[float | None] = [float(value) for value in right]
        if self.task == "vqa":
            score = [0.9 if value and row % 3 == 0 else float(value) for row, value in enumerate(right)]
        probability = np.where(right, 0.8, 0.2)
        prediction = np.where(right, self.targets, "other")
        rank: list[int | None] = [None] * self.num_rows
        if self.task == ANSWERED_BY_SET:
            sign = np.where(self.targets == "1", 1.0, -1.0)
            probability = 1 / (1 + np.exp(-(1.5 * seen * sign + self.noise)))
            prediction = np.where(probability > 0.5, "1", "0")
            score = [None] * self.num_rows
        if self.task in RETRIEVAL:
            ranks = np.where(right, 1 + (self.guess * 6).astype(int), 11 + (self.guess * 80).astype(int))
            rank = [int(value) for value in ranks]
            score = [float(np.mean([value <= k for k in (1, 5, 10)])) for value in ranks]
        return {
            "prediction": [str(p) for p in prediction],
            "target": [str(t) for t in self.targets],
            "score": score,
            "probability": [float(p) for p in probability],
            "logprob": [float(np.log(p)) for p in probability],
            "rank": rank,
        }

    def cell(self, coalition: Sequence[str], *, mode: str = "masked", name: str | None = None) -> Path:
        name = "+".join(coalition) if name is None else name
        n = self.num_rows
        data: dict[str, list[Any]] = {
            "task": [self.task] * n,
            "split": [self.split] * n,
            "seed": [self.seed] * n,
            "mode": [mode] * n,
            "removal": ["drop"] * n,
            "coalition": [name] * n,
            "id": [f"{self.strings}{row}" for row in range(n)],
            "image": [f"images/{row // 2}.jpg" for row in range(n)],
            "direction": list(self.directions),
            **self.columns(coalition),
            "slice_factor": [f"{self.strings}{factor}" for factor in self.factors],
        }
        if self.strings:
            data[f"slice_{self.strings}"] = [f"{self.strings}{row % 2}" for row in range(n)]
        types = {
            "score": pa.float64(),
            "probability": pa.float64(),
            "logprob": pa.float64(),
            "rank": pa.int64(),
        }
        table = pa.table(
            {k: pa.array(v, types.get(k)) if k in types else pa.array(v) for k, v in data.items()}
        )
        suffix = ".select" if self.split == "select" else ""
        path = (
            self.folder / "answers" / f"{self.task}.{self.seed}.{mode}.drop.{name or 'none'}{suffix}.parquet"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path


def write_task(folder: Path, task: str, *, num_rows: int, seed: int, strings: str = "") -> None:
    writer = TaskWriter(folder, task, num_rows=num_rows, seed=seed, split="test", strings=strings)
    for coalition in coalitions():
        if coalition or task not in RETRIEVAL:
            writer.cell(coalition)
    if task not in RETRIEVAL:
        writer.cell((), mode="blind")
    writer.cell((), mode="shuffled", name="+".join(ENCODERS))
    chooser = TaskWriter(folder, task, num_rows=num_rows // 2 - num_rows // 2 % 2, seed=seed, split="select")
    for alias in ENCODERS:
        chooser.cell((alias,))


def write_run(
    folder: Path,
    *,
    tasks: Sequence[str] = tuple(CHANCE),
    num_rows: int = 400,
    seeds: Sequence[int] = (0,),
    strings: str = "",
) -> Path:
    """Writes a whole run folder; `strings` is put before ids and slice values and is a slice of its own, to
    see how they are treated."""
    for task in tasks:
        for seed in seeds:
            write_task(folder, task, num_rows=num_rows, seed=seed, strings=strings)
    specs = {alias: f"demo:{alias}" for alias in ENCODERS}
    _json(
        folder / "config.json",
        {"run": folder.name, "encoders": specs, "tasks": list(tasks), "seeds": list(seeds)},
    )
    _json(
        folder / "environment.json", {"commit": "0" * 40, "dirty": False, "device": "cpu", "torch": "2.13.0"}
    )
    baselines = {task: {"chance": CHANCE[task], "majority": CHANCE[task] + 0.05, "prior": None} for task in tasks}
    for task in {"vqa", "gqa"} & set(tasks):
        baselines[task]["prior"] = CHANCE[task] + 0.0825
    _json(folder / "baselines.json", baselines)
    _json(
        folder / "cost.json",
        {a: {"params": 800_000, "gflops": 0.1, "tokens": 17, "ms_per_image": 3.2} for a in specs},
    )
    for seed in seeds:
        losses = [[step, 2.0 * float(np.exp(-step / 400)) + 0.4] for step in range(0, 1500, 5)]
        select = [[step, {task: 0.3 + step / 3000 for task in tasks}] for step in range(250, 1501, 250)]
        record = {
            "model": "joint",
            "mode": "masked",
            "seed": seed,
            "steps": 1500,
            "examples_seen": 96_000,
            "losses": losses,
            "select": select,
            "converged": False,
        }
        _json(folder / "train" / f"joint.{seed}.json", record)
    _attention(folder, tasks, seeds)
    _similarity(folder)
    return folder


def _attention(folder: Path, tasks: Sequence[str], seeds: Sequence[int]) -> None:
    mass = {"cls": 0.05, "text": 0.25, "vit": 0.3, "clip": 0.2, "dino": 0.1, "convnext": 0.1}
    share = {"cls": 0.01, "text": 0.19, "vit": 0.2, "clip": 0.2, "dino": 0.2, "convnext": 0.2}
    rows = [
        {
            "task": task,
            "seed": seed,
            "coalition": "+".join(ENCODERS),
            "layer": layer,
            "head": head,
            "encoder": span,
            "mass": mass[span],
            "token_share": share[span],
            "n": 100,
        }
        for task in tasks
        for seed in seeds
        for layer in range(4)
        for head in range(2)
        for span in mass
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "attention.parquet")


def _similarity(folder: Path) -> None:
    pairs = list(combinations(ENCODERS, 2))
    cka = [
        {
            "encoders": list(pair),
            "value": 0.2 + 0.1 * k,
            "ci95": [0.15 + 0.1 * k, 0.25 + 0.1 * k],
            "n": 500,
            "chance": 0.0,
        }
        for k, pair in enumerate(pairs)
    ]
    _json(folder / "similarity.json", {"cka": cka})


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
