"""What each encoder contributes: every quantity that is a map of the coalition values, in one unit.

Handed draws of the coalition values, in the metric or in log-probability; hands on leaves: Shapley values, interactions
of pairs and of larger sets, Moebius coefficients, leave-one-out, solo, and in the metric CUR and information gap. A
metric that saturates makes any two encoders look redundant; log-probability does not, so pairs of which the two say
different things are flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.answers import Cell, Rows
from analysis.bootstrap import Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.leaves import SHARE, Leaf, is_run, leaf, not_run
from analysis.metric_values import MeanStatistic, kind_of
from analysis.sampled import estimate

NATS = "nats"
SAMPLED = "needs all coalitions; of more than 8 encoders some are sampled"


@dataclass(frozen=True)
class Contributions:
    """Coalition values and what follows from them.

    Attributes:
        n: examples.
        undefined: why a number might not exist.
    """

    space: CoalitionSpace
    values: Draws
    n: int
    undefined: str = "undefined: all encoders together score 0"

    def shapley(self) -> dict[str, Leaf]:
        """Shapley values; estimated where coalitions were sampled."""
        if self.space.complete:
            return self.per_encoder(self.values.linear(self.space.shapley()))
        return self.per_encoder(estimate(self.space, self.values, order=1))

    def interaction(self) -> list[dict[str, Any]]:
        """Pairwise Shapley interactions (SII); Faith-Shapley ones (FSII) where coalitions were sampled."""
        pairs = self.space.sets(2)
        if not pairs:
            return []
        if self.space.complete:
            return self._per_set(self.values.linear(self.space.interaction(2)), pairs, index="SII")
        try:
            return self._per_set(estimate(self.space, self.values, order=2), pairs, index="FSII")
        except AnswersError as error:
            return [{"encoders": list(pair), **not_run(str(error))} for pair in pairs]

    def higher_interaction(self) -> list[dict[str, Any]] | Leaf:
        """Shapley interactions of three encoders and more."""
        if not self.space.complete:
            return not_run(SAMPLED)
        orders = range(3, len(self.space.aliases) + 1)
        return [
            entry
            for order in orders
            for entry in self._per_set(
                self.values.linear(self.space.interaction(order)), self.space.sets(order), index="SII"
            )
        ]

    def moebius(self) -> list[dict[str, Any]]:
        """Moebius coefficients of all coalitions; none where coalitions were sampled."""
        if not self.space.complete:
            return []
        return self._per_set(self.values.linear(self.space.moebius()), self.space.coalitions)

    def leave_one_out(self) -> dict[str, Leaf]:
        """What is lost without each encoder."""
        return self.per_encoder(self.values.linear(self.space.leave_one_out()))

    def solo(self) -> dict[str, Leaf]:
        """What each encoder adds to none."""
        return self.per_encoder(self.values.linear(self.space.solo()))

    def interaction_share(self) -> Leaf:
        """The share of the variance between coalitions that no sum over encoders explains."""
        if not self.space.complete:
            return not_run(SAMPLED)
        found = self.values.apply(self.space.interaction_share)
        return leaf(found, 0, n=self.n, undefined="undefined: all coalitions score alike", bounds=SHARE)

    def rates(self) -> dict[str, Any]:
        """CUR and information gap, which only a metric with a natural zero has."""
        gap = self.values.apply(self.space.information_gap)
        return {
            "cur": self.per_encoder(self.values.apply(self.space.cur), needs_width=True),
            "information_gap": leaf(gap, 0, n=self.n, undefined=self.undefined, needs_width=True),
        }

    def per_encoder(self, draws: Draws, *, needs_width: bool = False) -> dict[str, Leaf]:
        """One leaf per encoder."""
        return {
            alias: leaf(draws, column, n=self.n, undefined=self.undefined, needs_width=needs_width)
            for column, alias in enumerate(self.space.aliases)
        }

    def _per_set(self, draws: Draws, sets: Sequence[tuple[str, ...]], **more: str) -> list[dict[str, Any]]:
        return [
            {"encoders": list(one), **leaf(draws, column, n=self.n, undefined=self.undefined), **more}
            for column, one in enumerate(sets)
        ]


def in_the_metric(found: Contributions) -> dict[str, Any]:
    """Everything, as the task's entry in results.json has it."""
    return {
        "shapley": found.shapley(),
        "interaction": found.interaction(),
        "higher_interaction": found.higher_interaction(),
        "moebius": found.moebius(),
        "leave_one_out": found.leave_one_out(),
        "solo": found.solo(),
        **found.rates(),
        "interaction_share": found.interaction_share(),
    }


def in_log_probability(found: Contributions, metric: list[dict[str, Any]]) -> dict[str, Any]:
    """The same in mean log-probability of the target (nats), with the pairs that only the metric calls redundant.

    Args:
        metric: the pairwise interactions in the metric.
    """
    pairs = found.interaction()
    return {
        "unit": NATS,
        "coalitions": [
            {"encoders": list(coalition), **leaf(found.values, column, n=found.n)}
            for column, coalition in enumerate(found.space.coalitions)
        ],
        "shapley": found.shapley(),
        "interaction": pairs,
        "leave_one_out": found.leave_one_out(),
        "solo": found.solo(),
        "interaction_share": found.interaction_share(),
        "only_in_the_metric": [
            one["encoders"]
            for one, other in zip(metric, pairs, strict=True)
            if is_run(one) and is_run(other) and one["ci95"][1] < 0 and other["ci95"][1] >= 0
        ],
    }


def contribution_share(
    metric: str, rows: Rows, seeds: Sequence[Sequence[Cell]], space: CoalitionSpace, resampler: Resampler
) -> dict[str, Leaf] | Leaf:
    """Mean over examples of |phi_e| / sum over f of |phi_f|, of the examples' own Shapley values (signs lost).

    `n` counts the examples that coalitions score differently, on average over seeds.

    Args:
        seeds: per seed the cells of all coalitions, in the space's order.
    """
    if kind_of(metric) != "mean" or not space.complete:
        return not_run("defined for means over examples with all coalitions evaluated")
    statistics = [_share_statistic(rows, cells, space) for cells in seeds]
    draws = resampler.draw(statistics)
    n = round(sum(float(statistic.counts.sum()) for statistic in statistics) / len(statistics))
    why = "undefined: no example is scored differently by different coalitions"
    return {alias: leaf(draws, column, n=n, undefined=why, bounds=SHARE) for column, alias in enumerate(space.aliases)}


def _share_statistic(rows: Rows, cells: Sequence[Cell], space: CoalitionSpace) -> MeanStatistic:
    scores: Float[np.ndarray, "n s"] = np.stack([cell.score for cell in cells], axis=1)
    own = np.abs(scores @ space.shapley().T)
    total = own.sum(axis=1)
    counted = total > 1e-12
    shares = own[counted] / total[counted, None]
    clusters, width = rows.clusters[counted], rows.num_clusters
    columns = [np.bincount(clusters, weights=column, minlength=width) for column in shares.T]
    sums = np.stack(columns, axis=1, dtype=np.float64)
    return MeanStatistic(sums, np.bincount(clusters, minlength=width).astype(np.float64))
