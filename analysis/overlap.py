"""Whose errors overlap: pairs of encoders, each alone.

Handed the solo cells of a task; hands on, per pair, union accuracy, disagreement, double fault, Yule's Q
and error consistency (Geirhos et al. 2020), and per encoder how many examples its presence rescues and
harms. Right and wrong are per example (`metric_values.correctness`: soft shares count as right from one
half on).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.answers import Cell, TaskAnswers
from analysis.bootstrap import Draws, Resampler
from analysis.leaves import leaf
from analysis.metric_values import correctness, mean_statistic

QUANTITIES = ("union", "disagreement", "double_fault", "q", "error_consistency")
UNDEFINED = {
    "q": "undefined: N11*N00 + N10*N01 is 0",
    "error_consistency": "undefined: both encoders are always right, or always wrong",
}
CONVENTION = "right means a share of at least 0.5 (prediction equals target where the metric is of the set)"


def overlap_quantities(table: Float[np.ndarray, "*r 4"]) -> Float[np.ndarray, "*r 5"]:
    """`QUANTITIES` of shares (N11, N10, N01, N00), in this order; NaN where not defined."""
    both, first, second, neither = np.moveaxis(table, -1, 0)
    expected = (both + first) * (both + second) + (second + neither) * (first + neither)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross, parallel = first * second, both * neither
        q = np.where(parallel + cross > 0, (parallel - cross) / (parallel + cross), np.nan)
        chance_corrected = (both + neither - expected) / (1 - expected)
        consistency = np.where(1 - expected > 1e-12, chance_corrected, np.nan)
    return np.stack([both + first + second, first + second, neither, q, consistency], axis=-1)


def _shares(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    cases = [first & second, first & ~second, ~first & second, ~first & ~second]
    return np.stack(cases, axis=1).astype(np.float64)


def pair_overlap(
    answers: TaskAnswers, metric: str, resampler: Resampler, solo: Mapping[str, Sequence[Cell]]
) -> list[dict[str, Any]]:
    """One entry per pair of encoders; `solo` holds each encoder's cell under every seed."""
    entries: list[dict[str, Any]] = []
    for pair in combinations(solo, 2):
        draws = _draw_shares(answers, metric, resampler, solo[pair[0]], solo[pair[1]]).apply(
            overlap_quantities
        )
        n = len(answers.rows.ids)
        leaves = {
            name: leaf(draws, column, n=n, undefined=UNDEFINED.get(name, "undefined"))
            for column, name in enumerate(QUANTITIES)
        }
        entries.append({"encoders": list(pair), **leaves})
    return entries


def flips(
    answers: TaskAnswers,
    metric: str,
    resampler: Resampler,
    *,
    without: Mapping[str, Sequence[Cell]],
    whole: Sequence[Cell],
) -> dict[str, dict[str, Any]]:
    """Per encoder, the share of examples that all encoders get right and all others wrong (`rescue`), and
    `harm`."""
    result: dict[str, dict[str, Any]] = {}
    for alias, cells in without.items():
        draws = _draw_shares(answers, metric, resampler, whole, cells)
        n = len(answers.rows.ids)
        result[alias] = {"rescue": leaf(draws, 1, n=n), "harm": leaf(draws, 2, n=n)}
    return result


def _draw_shares(
    answers: TaskAnswers, metric: str, resampler: Resampler, first: Sequence[Cell], second: Sequence[Cell]
) -> Draws:
    shares = [
        _shares(correctness(metric, a), correctness(metric, b)) for a, b in zip(first, second, strict=True)
    ]
    return resampler.draw([mean_statistic(columns, answers.rows) for columns in shares])
