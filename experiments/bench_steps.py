"""Step times of `bench train` against tokens and encoders, fitted and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from experiments.bench import Figure
from experiments.bench_model import Bench, concat_step, took

SIDES = (3, 5, 7)


def step_figures(bench: Bench, *, rounds: int, plot: Path | None) -> list[Figure]:
    """(e) Seconds of forward and backward against tokens and encoders, fitted by least squares.

    On a CPU these are processor seconds, which other work disturbs less.
    """
    rows, on_cpu = [], not torch.cuda.is_available()
    for side in SIDES:
        shape = replace(bench.shape, tokens=side * side)
        own = Bench(bench.folder / f"side-{side}", shape, images=shape.batch)
        model = own.model().train()
        group = own.batches(model, 1)[0][0]
        for count in range(1, shape.encoders + 1):
            work = partial(concat_step, model, group, shape.aliases[:count])
            work()
            length = shape.text + count * shape.tokens
            times = [took(work) for _ in range(rounds)]
            rows.append((length, count, median(each.processor if on_cpu else each.wall for each in times)))
    lengths, encoders, seconds = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2, encoders], axis=1)
    fit, *_ = np.linalg.lstsq(terms, seconds, rcond=None)
    unexplained = ((seconds - terms @ fit) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    if plot is not None:
        draw(plot, rows, fit)
    fixed = f"B={bench.shape.batch}, W={bench.shape.width}, {bench.shape.layers} layers"
    shown = f"{fixed}, L={lengths.min():.0f}–{lengths.max():.0f}"
    names = ("constant", "a token", "a token squared", "an encoder")
    units = ("ms", "ms", "µs", "ms")
    scale = (1e3, 1e3, 1e6, 1e3)
    found = [
        Figure(f"step time, {name} ({shown})", float(value) * factor, unit)
        for name, value, factor, unit in zip(names, fit, scale, units, strict=True)
    ]
    return [*found, Figure(f"share of the step times' variance that this fit leaves ({shown})", float(unexplained))]


def draw(path: Path, rows: Sequence[tuple[int, int, float]], fit: np.ndarray) -> None:
    """Step times by tokens, a colour for each number of encoders, and the fit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for count in sorted({encoders for _, encoders, _ in rows}):
        own = sorted((length, 1000 * seconds) for length, encoders, seconds in rows if encoders == count)
        lengths = np.array([length for length, _ in own], dtype=float)
        (line,) = axes.plot(lengths, [value for _, value in own], "o", label=f"{count} encoders")
        fitted = 1000 * (fit[0] + fit[1] * lengths + fit[2] * lengths**2 + fit[3] * count)
        axes.plot(lengths, fitted, color=line.get_color())
    axes.set_xlabel("tokens L")
    axes.set_ylabel("forward + backward, ms")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
