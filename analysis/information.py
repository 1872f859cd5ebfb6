"""Unique, redundant and synergistic information of two encoders about the target, in bits.

Handed the predictions of two encoders, each alone; hands on the partial information decomposition of Bertschinger,
Rauh, Olbrich, Jost & Ay (2014; "BROJA"): the unique information of one source is the least conditional mutual
information that any joint distribution with the same two (source, target) margins allows. Plug-in information is
biased upward (independent answers over 100 classes show 3.28 bits at 1,000 examples), so it is computed for tasks of
few answers alone, and what shuffled targets show is taken off.

The minimum is found by alternating I-projections (Banerjee, Olbrich, Jost & Rauh 2018), many distributions at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.answers import Cell, TaskAnswers
from analysis.bootstrap import Resampler
from analysis.draws import Draws
from analysis.leaves import Leaf, leaf, not_run, rounded
from analysis.metric_values import kind_of, mean_statistic

PARTS = ("redundant", "unique_first", "unique_second", "synergy")
MOST_ANSWERS = 4
SHUFFLES = 20
RESAMPLES = 100
"""Of images; each one is a search of its own."""
TOLERANCE = 1e-4
"""Bits that the last sweeps may change, in reports; tests ask for more."""
SWEEPS = 20
MOST_SWEEPS = 20_000
PROJECTIONS = 2
"""At least 1; more does not help, see `_Search.sweep`."""
TINY = 1e-300


def mutual_information(joint: Float[np.ndarray, "*r a b"]) -> Float[np.ndarray, " *r"]:
    """I(A; B) in bits."""
    outer = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    return np.asarray(_divergence(joint, outer).sum(axis=(-1, -2)))


def decompose(joint: Float[np.ndarray, "r t x z"], *, tolerance: float = TOLERANCE) -> Float[np.ndarray, "r 4"]:
    """`PARTS` of distributions over target, first and second source, in bits; they sum to I(target; both).

    Args:
        tolerance: bits per `SWEEPS` sweeps below which the search ends.
    """
    unique = _unique(joint, tolerance=tolerance)
    first = mutual_information(joint.sum(axis=3))
    second = mutual_information(joint.sum(axis=2))
    both = mutual_information(joint.reshape(*joint.shape[:2], -1))
    redundant = first - unique
    other = second - redundant
    return np.stack([redundant, unique, other, both - redundant - unique - other], axis=-1)


def _divergence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(first > 0, first * np.log2(first / np.maximum(second, TINY)), 0.0))


def _unique(joint: Float[np.ndarray, "r t x z"], *, tolerance: float) -> Float[np.ndarray, " r"]:
    """min over Q of I_Q(target; first | second), where Q has the (target, first) and (target, second) margins."""
    search = _Search(joint)
    value = _conditional(search.found)
    open_rows = np.arange(len(joint))
    for _ in range(MOST_SWEEPS // SWEEPS):
        for _ in range(SWEEPS):
            search.sweep()
        now = _conditional(search.found)
        moving = np.abs(now - value[open_rows]) >= tolerance
        value[open_rows] = now
        if not moving.any():
            break
        open_rows = open_rows[moving]
        search.keep(moving)
    return value


class _Search:
    """Distributions on their way to the least conditional information that their margins allow."""

    def __init__(self, joint: Float[np.ndarray, "r t x z"]) -> None:
        self.first, self.second = joint.sum(axis=3, keepdims=True), joint.sum(axis=2, keepdims=True)
        self.found = self.first * self.second / np.maximum(joint.sum(axis=(2, 3), keepdims=True), TINY)
        self.by_second = np.ones_like(self.second)

    def sweep(self) -> None:
        """Takes Q's own channel from the second source to the first, then the nearest Q with the margins asked for.

        Projections start from the multipliers of the last one, or a few steps would not reach the margins.
        """
        given = self.found.sum(axis=1, keepdims=True)
        base = self.second * (given / np.maximum(given.sum(axis=2, keepdims=True), TINY))
        for _ in range(PROJECTIONS):
            by_first = self.first / np.maximum((base * self.by_second).sum(axis=3, keepdims=True), TINY)
            self.by_second = self.second / np.maximum((base * by_first).sum(axis=2, keepdims=True), TINY)
        self.found = base * by_first * self.by_second

    def keep(self, rows: Bool[np.ndarray, " r"]) -> None:
        """Goes on with some of them."""
        self.first, self.second = self.first[rows], self.second[rows]
        self.found, self.by_second = self.found[rows], self.by_second[rows]


def _conditional(joint: Float[np.ndarray, "r t x z"]) -> Float[np.ndarray, " r"]:
    """I(target; first | second) in bits."""
    by_second = joint.sum(axis=(1, 2), keepdims=True)
    split = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True) / np.maximum(by_second, TINY)
    return np.asarray(_divergence(joint, split).sum(axis=(1, 2, 3)))


def shared_information(answers: TaskAnswers, metric: str, solo: Mapping[str, Sequence[Cell]]) -> list[Any] | Leaf:
    """One entry per pair of encoders: each part with its interval, and what shuffled targets show of it."""
    targets = sorted(set(answers.rows.targets))
    if kind_of(metric) == "directions" or not 2 <= len(targets) <= MOST_ANSWERS:
        return not_run(f"computed for tasks of 2 to {MOST_ANSWERS} answers, this one has {len(targets)}")
    rows = answers.rows
    target = np.searchsorted(targets, rows.targets).astype(np.int64)
    shuffled = _shuffles(target)
    resampler = Resampler(
        f"{answers.task}.information", num_clusters=rows.num_clusters, num_resamples=RESAMPLES, seed=0
    )
    answered = {
        alias: [_answers(answers, cell, targets) for cell in cells] for alias, cells in solo.items()
    }
    entries = []
    for pair in combinations(solo, 2):
        seeds = list(zip(answered[pair[0]], answered[pair[1]], strict=True))
        shape = (len(targets), len(targets) + 1, len(targets) + 1)

        def parts(joint: np.ndarray, shape: tuple[int, ...] = shape) -> np.ndarray:
            return decompose(joint.reshape(-1, *shape)).reshape(*joint.shape[:-1], len(PARTS))

        statistics = [mean_statistic(_indicators(shape, target, *both), rows) for both in seeds]
        found = resampler.draw(statistics).each(parts)
        chance = [_indicators(shape, one, *both).mean(axis=0) for one in shuffled for both in seeds]
        by_chance = parts(np.stack(chance)).mean(axis=0)
        entries.append({"encoders": list(pair), **_leaves(found, by_chance, n=len(rows.ids))})
    return entries


def _leaves(found: Draws, by_chance: Float[np.ndarray, " p"], *, n: int) -> dict[str, Leaf]:
    corrected = found.apply(lambda values: values - by_chance)
    return {
        part: {**leaf(corrected, column, n=n), "unit": "bits", "shuffled": rounded(by_chance[column])}
        for column, part in enumerate(PARTS)
    }


def _answers(answers: TaskAnswers, cell: Cell, targets: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Predictions as numbers of targets, and one more for everything else."""
    numbers = {string: number for number, string in enumerate(targets)}
    table = np.array([numbers.get(string, len(targets)) for string in answers.vocabulary], dtype=np.int64)
    return np.asarray(table[cell.prediction])


def _shuffles(target: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " n"]]:
    rng = np.random.default_rng(0)
    return [rng.permutation(target) for _ in range(SHUFFLES)]


def _indicators(
    shape: tuple[int, ...], target: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n c"]:
    """One column per cell of the joint table."""
    place = np.ravel_multi_index((target, first, second), shape)
    return np.asarray(place[:, None] == np.arange(np.prod(shape)), dtype=np.float64)
