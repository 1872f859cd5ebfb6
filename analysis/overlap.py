"""Whose errors overlap: pairs of encoders, each alone, and all of them together.

Handed the solo cells of a task; hands on, per pair, union accuracy, disagreement, double fault, Yule's Q, error
consistency (Geirhos et al. 2020) and CAPA, and the union against what it would be if errors were independent and
against two seeds of one encoder: any second guesser raises a union. Right and wrong are per example
(`metric_values.correctness`: soft shares count as right from one half on).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.answers import Cell, TaskAnswers
from analysis.bootstrap import Resampler
from analysis.draws import Draws
from analysis.leaves import CORRELATION, SHARE, UP_TO_ONE, Leaf, leaf, not_run
from analysis.metric_values import correctness, influence_of, kind_of, mean_statistic

QUANTITIES = ("union", "disagreement", "double_fault", "q", "error_consistency", "union_independent")
ENSEMBLE = ("union", "union_independent", "best_single", "headroom_captured")
OF_CASES = {"union": (1, 1, 1, 0), "disagreement": (0, 1, 1, 0), "double_fault": (0, 0, 0, 1)}
"""Shares that are sums of the shares N11, N10, N01, N00."""
UNDEFINED = {
    "q": "undefined: N11*N00 + N10*N01 is 0",
    "error_consistency": "undefined: both encoders are always right, or always wrong",
}
CONVENTION = "right means a share of at least 0.5 (prediction equals target where the metric is of the set)"
SEEDS_FOR_UNION = 3
EXCLUSIVE_UP_TO = 6

Solo = Mapping[str, Sequence[Cell]]
"""Each encoder's own cell under every seed."""


def overlap_quantities(table: Float[np.ndarray, "*r 4"]) -> Float[np.ndarray, "*r 6"]:
    """`QUANTITIES` of shares (N11, N10, N01, N00), in this order; NaN where not defined."""
    both, first, second, neither = np.moveaxis(table, -1, 0)
    expected = (both + first) * (both + second) + (second + neither) * (first + neither)
    independent = 1 - (second + neither) * (first + neither)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross, parallel = first * second, both * neither
        q = np.where(parallel + cross > 0, (parallel - cross) / (parallel + cross), np.nan)
        chance_corrected = (both + neither - expected) / (1 - expected)
        consistency = np.where(1 - expected > 1e-12, chance_corrected, np.nan)
    return np.stack([both + first + second, first + second, neither, q, consistency, independent], axis=-1)


def capa(table: Float[np.ndarray, "*r 3"], *, num_options: int) -> Float[np.ndarray, " *r"]:
    """Chance-adjusted probabilistic agreement of predictions (CAPA; Goel et al. 2025, arXiv 2502.04313).

    (c_obs - c_exp) / (1 - c_exp), where c_obs is how often both predict the same and c_exp what two independent models
    of these accuracies would, wrong answers falling evenly on the other options: a b + (1 - a)(1 - b) / (options - 1).
    As files hold predictions and not distributions, each model's distribution is taken to lie on its prediction.

    Args:
        table: share of equal predictions, and both accuracies (prediction equals target).
    """
    same, first, second = np.moveaxis(table, -1, 0)
    expected = first * second + (1 - first) * (1 - second) / (num_options - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(1 - expected > 1e-12, (same - expected) / (1 - expected), np.nan))


def right_and_wrong(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    """Indicators of both right, only the first, only the second, neither."""
    cases = [first & second, first & ~second, ~first & second, ~first & ~second]
    return np.stack(cases, axis=1).astype(np.float64)


def pair_overlap(answers: TaskAnswers, metric: str, resampler: Resampler, solo: Solo) -> list[dict[str, Any]]:
    """One entry per pair of encoders."""
    n, entries = len(answers.rows.ids), []
    for pair in combinations(solo, 2):
        cells = [solo[alias] for alias in pair]
        draws = drawn_shares(answers, metric, resampler, first=cells[0], second=cells[1])
        found, sums = draws.each(overlap_quantities), draws.linear(np.array(list(OF_CASES.values()), dtype=np.float64))
        leaves = {
            name: leaf(
                found,
                column,
                n=n,
                undefined=UNDEFINED.get(name, "undefined"),
                bounds=CORRELATION if name in UNDEFINED else SHARE,
                needs_width=True,
            )
            for column, name in enumerate(QUANTITIES)
        }
        leaves |= {name: leaf(sums, column, n=n, bounds=SHARE) for column, name in enumerate(OF_CASES)}
        entries.append(
            {
                "encoders": list(pair),
                **leaves,
                "capa": _capa(answers, metric, resampler, cells),
                **_against_seeds(answers, metric, resampler, cells),
            }
        )
    return entries


def _capa(answers: TaskAnswers, metric: str, resampler: Resampler, cells: Sequence[Sequence[Cell]]) -> Leaf:
    if kind_of(metric) == "directions":
        return not_run("a ranking has no options to agree on")
    options = len(set(answers.vocabulary) | set(answers.rows.targets))
    if options < 2:
        return not_run("a single option")
    columns = [
        np.stack([a.prediction == b.prediction, a.correct, b.correct], axis=1).astype(np.float64)
        for a, b in zip(*cells, strict=True)
    ]
    draws = resampler.draw([mean_statistic(one, answers.rows) for one in columns])
    found = draws.each(lambda table: capa(table, num_options=options))
    n = len(answers.rows.ids)
    result = leaf(found, 0, n=n, undefined="undefined: both are always right", bounds=UP_TO_ONE, needs_width=True)
    return {**result, "options": options}


def _against_seeds(
    answers: TaskAnswers, metric: str, resampler: Resampler, cells: Sequence[Sequence[Cell]]
) -> dict[str, Leaf]:
    """The union over two seeds of the better encoder of a pair, and what the pair's union under two seeds exceeds it
    by."""
    if len(answers.seeds) < SEEDS_FOR_UNION:
        why = not_run(f"needs {SEEDS_FOR_UNION} seeds, has {len(answers.seeds)}")
        return {"union_seeds": why, "union_gain_over_seeds": why}
    right = [np.stack([correctness(metric, cell) for cell in one]) for one in cells]
    better, other = sorted(right, key=lambda one: -float(one.mean()))
    columns = np.stack([_unions(better, better), _unions(better, other) / 2 + _unions(other, better) / 2], axis=-1)
    statistics = [mean_statistic(one, answers.rows) for one in pseudo_values(columns)]
    draws = resampler.draw(statistics, influence=influence_of("accuracy", answers.rows))
    n = len(answers.rows.ids)
    gain = draws.linear(np.array([[-1.0, 1.0]]))
    return {"union_seeds": leaf(draws, 0, n=n, bounds=SHARE), "union_gain_over_seeds": leaf(gain, 0, n=n)}


def _unions(first: Bool[np.ndarray, "s n"], second: Bool[np.ndarray, "s n"]) -> Float[np.ndarray, "s n"]:
    """Per seed of the first, how often it or another seed of the second is right, averaged over those."""
    seeds = range(len(first))
    return np.stack([np.mean([first[s] | second[t] for t in seeds if t != s], axis=0) for s in seeds])


def pseudo_values(columns: Float[np.ndarray, "s n k"]) -> Float[np.ndarray, "s n k"]:
    """Jackknife pseudo-values of a mean over pairs of seeds, so that its variance between seeds is that of a mean.

    From h_s, the mean over the pairs that seed s takes part in, and U, that over all pairs:
    (2 (K - 1) h_s - K U) / (K - 2), whose mean over s is U.
    """
    count = len(columns)
    whole = columns.mean(axis=0)
    return np.asarray((2 * (count - 1) * columns - count * whole) / (count - 2))


def exclusive_sets(
    answers: TaskAnswers, metric: str, resampler: Resampler, solo: Solo
) -> list[dict[str, Any]] | Leaf:
    """Share of examples that exactly the encoders of a set get right, each alone; sets that never do are left out."""
    if len(solo) > EXCLUSIVE_UP_TO:
        return not_run(f"computed for at most {EXCLUSIVE_UP_TO} encoders, this run has {len(solo)}")
    aliases, count = list(solo), 2 ** len(solo)
    codes = [
        sum(correctness(metric, cell).astype(np.int64) << place for place, cell in enumerate(cells))
        for cells in zip(*solo.values(), strict=True)
    ]
    columns = [np.eye(count)[np.asarray(code)] for code in codes]
    n = len(answers.rows.ids)
    statistics = [mean_statistic(one, answers.rows) for one in columns]
    draws = resampler.draw(statistics, influence=influence_of("accuracy", answers.rows))
    return [
        {
            "encoders": [alias for place, alias in enumerate(aliases) if code >> place & 1],
            **leaf(draws, code, n=n, bounds=SHARE),
        }
        for code in range(count)
        if draws.point[code] > 0
    ]


def ensemble_overlap(
    answers: TaskAnswers, metric: str, resampler: Resampler, solo: Solo, *, whole: Sequence[Cell]
) -> dict[str, Leaf]:
    """Union over all single encoders, the same if errors were independent, and the share of the headroom between the
    best single encoder and the union that all encoders together capture."""

    def columns(seed: int) -> Float[np.ndarray, "n k"]:
        singles = np.stack([correctness(metric, cells[seed]) for cells in solo.values()], axis=1)
        return np.column_stack([singles.any(axis=1), correctness(metric, whole[seed]), singles]).astype(np.float64)

    statistics = [mean_statistic(columns(seed), answers.rows) for seed in range(len(whole))]
    draws = resampler.draw(statistics, influence=influence_of("accuracy", answers.rows))
    found = draws.each(_ensemble)
    undefined = "undefined: the union is no better than the best single encoder"
    n = len(answers.rows.ids)
    bounds = {"headroom_captured": UP_TO_ONE}
    leaves = {
        name: leaf(found, column, n=n, undefined=undefined, bounds=bounds.get(name, SHARE), needs_width=True)
        for column, name in enumerate(ENSEMBLE)
    }
    return {**leaves, "union": leaf(draws, 0, n=n, bounds=SHARE)}


def _ensemble(table: Float[np.ndarray, "*r k"]) -> Float[np.ndarray, "*r 4"]:
    union, together, singles = table[..., 0], table[..., 1], table[..., 2:]
    best = singles.max(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        captured = np.where(union - best > 1e-12, (together - best) / (union - best), np.nan)
    return np.stack([union, 1 - (1 - singles).prod(axis=-1), best, captured], axis=-1)


def drawn_shares(
    answers: TaskAnswers, metric: str, resampler: Resampler, *, first: Sequence[Cell], second: Sequence[Cell]
) -> Draws:
    """Shares of both right, only the first, only the second, neither."""
    pairs = zip(first, second, strict=True)
    cases = [right_and_wrong(correctness(metric, a), correctness(metric, b)) for a, b in pairs]
    statistics = [mean_statistic(columns, answers.rows) for columns in cases]
    return resampler.draw(statistics, influence=influence_of("accuracy", answers.rows))
