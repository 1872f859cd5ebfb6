"""Everything that is a map of the coalition values.

Handed values `v` whose last axis runs over the coalitions (empty first, by size, then in the run's order);
hands on Shapley values, interactions, Moebius coefficients, leave-one-out, solo, CUR, information gap and
interaction share. The linear ones are matrices `m`, applied as `v @ m.T`, so a thousand bootstrap draws
cost one matrix product and derived quantities get joint intervals. Definitions: Shapley 1953; Grabisch &
Roubens 1999 (SII). Up to `EXACT_UP_TO` encoders all 2^n coalitions are there and every map is exact; beyond that
`analysis.sampled` estimates Shapley values and pairwise interactions from those that are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float

Coalition = tuple[str, ...]

EXACT_UP_TO = 8
"""Encoders of which all 2^n coalitions are evaluated."""


def coalition_name(coalition: Sequence[str]) -> str:
    """Aliases joined by `+`, as the answers store them; empty for text only."""
    return "+".join(coalition)


def all_coalitions(aliases: Sequence[str]) -> tuple[Coalition, ...]:
    """All 2^n subsets: empty first, by size, then in the order of `aliases`."""
    return tuple(c for size in range(len(aliases) + 1) for c in combinations(aliases, size))


@dataclass(frozen=True)
class CoalitionSpace:
    """The coalitions of a list of encoders, and the linear maps over them.

    Matrices have one row per result and one column per coalition (`S`).

    Attributes:
        aliases: the encoders, in the run's order.
        stored: the coalitions that were evaluated, where not all 2^n; in the order of `all_coalitions`.
    """

    aliases: tuple[str, ...]
    stored: tuple[Coalition, ...] | None = None

    @cached_property
    def coalitions(self) -> tuple[Coalition, ...]:
        """The coalitions in storage order."""
        return all_coalitions(self.aliases) if self.stored is None else self.stored

    @property
    def complete(self) -> bool:
        """Whether every coalition is there, so that nothing needs to be estimated."""
        return len(self.coalitions) == 1 << len(self.aliases)

    @cached_property
    def _column(self) -> dict[frozenset[str], int]:
        return {frozenset(coalition): column for column, coalition in enumerate(self.coalitions)}

    def column(self, coalition: Sequence[str]) -> int:
        """Where a coalition stands on the last axis, whatever the order of its members."""
        return self._column[frozenset(coalition)]

    @property
    def full(self) -> int:
        """The column of all encoders."""
        return len(self.coalitions) - 1

    def sets(self, order: int) -> tuple[Coalition, ...]:
        """All subsets with `order` members, in order."""
        return tuple(combinations(self.aliases, order))

    def interaction(self, order: int) -> Float[np.ndarray, "t s"]:
        """Shapley interaction index of every set with `order` members; order 1 is the Shapley value.

        SII(T) = sum over S without T of |S|! (n-|S|-|T|)! / (n-|T|+1)! * discrete derivative of v at S with
        respect to T; negative is redundancy, positive synergy.
        """
        assert self.complete, "sampled coalitions go through analysis.sampled"
        targets = self.sets(order)
        total = len(self.aliases)
        matrix = np.zeros((len(targets), len(self.coalitions)))
        for row, target in enumerate(targets):
            for rest in all_coalitions([alias for alias in self.aliases if alias not in target]):
                size = len(rest)
                weight = factorial(size) * factorial(total - size - order) / factorial(total - order + 1)
                for part in all_coalitions(target):
                    sign = (-1) ** (order - len(part))
                    matrix[row, self.column((*rest, *part))] += sign * weight
        return matrix

    def shapley(self) -> Float[np.ndarray, "e s"]:
        """Shapley values, which sum to v(all) - v(none)."""
        return self.interaction(1)

    def moebius(self) -> Float[np.ndarray, "s s"]:
        """Moebius coefficients m(T) = sum over S in T of (-1)^(|T|-|S|) v(S)."""
        assert self.complete, "Moebius coefficients need every coalition"
        matrix = np.zeros((len(self.coalitions), len(self.coalitions)))
        for row, target in enumerate(self.coalitions):
            for part in all_coalitions(target):
                matrix[row, self.column(part)] = (-1) ** (len(target) - len(part))
        return matrix

    def leave_one_out(self) -> Float[np.ndarray, "e s"]:
        """v(all) - v(all but e)."""
        matrix = np.zeros((len(self.aliases), len(self.coalitions)))
        matrix[:, self.full] = 1
        for row, alias in enumerate(self.aliases):
            matrix[row, self.column([other for other in self.aliases if other != alias])] -= 1
        return matrix

    def solo(self) -> Float[np.ndarray, "e s"]:
        """v({e}) - v(none)."""
        matrix = np.zeros((len(self.aliases), len(self.coalitions)))
        matrix[:, 0] = -1
        for row, alias in enumerate(self.aliases):
            matrix[row, self.column([alias])] += 1
        return matrix

    def cur(self, values: Float[np.ndarray, "*r s"]) -> Float[np.ndarray, "*r e"]:
        """Conditional utilisation rate: leave-one-out as a share of v(all); NaN where v(all) is 0."""
        whole = values[..., self.full, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole != 0, (values @ self.leave_one_out().T) / whole, np.nan)

    def information_gap(self, values: Float[np.ndarray, "*r s"]) -> Float[np.ndarray, " *r"]:
        """Largest less smallest CUR."""
        rates = self.cur(values)
        return np.asarray(rates.max(axis=-1) - rates.min(axis=-1))

    def interaction_share(self, values: Float[np.ndarray, "*r s"]) -> Float[np.ndarray, " *r"]:
        """1 - R^2 of the best additive game over all coalitions; NaN where all coalitions score alike."""
        design = np.array([[1.0, *(alias in c for alias in self.aliases)] for c in self.coalitions])
        residual = values - values @ (design @ np.linalg.pinv(design)).T
        spread = ((values - values.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(spread > 1e-12, (residual**2).sum(axis=-1) / spread, np.nan))
