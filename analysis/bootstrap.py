"""The clustered, paired bootstrap.

Handed statistics that can be evaluated under weights of image clusters; hands on draws of all of them under
the same resampled images (and seeds, when there are several), so that any difference or linear map of them
is paired. Resampling with replacement is a matrix of multinomial counts, resamples x clusters, kept as
bytes: evaluating a mean metric for all coalitions is then one matrix product. Intervals are 95 % percentile
intervals.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

CHUNK_ELEMENTS = 600_000
"""Weights evaluated at once: bounds memory and stays in cache."""

Array = np.ndarray


@runtime_checkable
class Statistic(Protocol):
    """A vector of `k` numbers computed from examples whose images carry weights."""

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        """The numbers under each row of cluster weights; NaN where they are not defined."""
        ...


@dataclass(frozen=True)
class Draws:
    """Numbers as observed (`point`) and as recomputed under every resample (`samples`)."""

    point: Float[np.ndarray, " k"]
    samples: Float[np.ndarray, "r k"]

    def linear(self, matrix: Float[np.ndarray, "m k"]) -> Draws:
        """The same linear map of the point and of every draw."""
        return Draws(self.point @ matrix.T, self.samples @ matrix.T)

    def apply(self, function: Callable[[Array], Array]) -> Draws:
        """A function over the last axis, of the point and of every draw; scalar results become one column."""
        point, samples = function(self.point), function(self.samples)
        return Draws(np.atleast_1d(point), samples.reshape(len(self.samples), -1))

    def columns(self, columns: Sequence[int]) -> Draws:
        """A selection of columns."""
        return Draws(self.point[list(columns)], self.samples[:, list(columns)])

    def with_constant(self, value: float, *, column: int) -> Draws:
        """Inserts a number that no resampling changes, such as chance."""
        return Draws(np.insert(self.point, column, value), np.insert(self.samples, column, value, axis=1))

    def interval(self, column: int) -> tuple[float, float] | None:
        """The 95 % percentile interval; None where more than one draw in twenty is undefined."""
        kept = self.samples[:, column]
        kept = kept[np.isfinite(kept)]
        if len(kept) < 0.95 * len(self.samples):
            return None
        low, high = np.percentile(kept, [2.5, 97.5])
        return float(low), float(high)

    def standard_error(self, column: int) -> float:
        """Standard deviation over resamples."""
        return float(np.nanstd(self.samples[:, column], ddof=1))

    def p_value(self, column: int) -> float:
        """Two-sided p of "the number is 0": how often a draw strays from the point by as much as 0 does."""
        point, draws = self.point[column], self.samples[:, column]
        strays = np.abs(draws - point) >= abs(point) - 1e-12
        return float((1 + strays.sum()) / (1 + len(draws)))


class Resampler:
    """One set of resampled images and seeds, shared by everything that is computed about a task."""

    def __init__(
        self, name: str, *, num_clusters: int, num_seeds: int, num_resamples: int, seed: int
    ) -> None:
        """Draws the counts; `name` keeps tasks independent of each other and of their order."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.num_clusters, self.num_resamples = num_clusters, num_resamples
        chosen = rng.integers(0, num_seeds, size=(num_resamples, num_seeds))
        self._seed_share = np.stack([(chosen == s).mean(axis=1) for s in range(num_seeds)], axis=1)
        self._counts: UInt8[np.ndarray, "r c"] = np.empty((num_resamples, num_clusters), dtype=np.uint8)
        for rows in self._chunks(num_clusters):
            drawn = rng.integers(0, num_clusters, size=(rows.stop - rows.start, num_clusters))
            drawn += np.arange(len(drawn))[:, None] * num_clusters
            flat = np.bincount(drawn.ravel(), minlength=drawn.size)
            self._counts[rows] = np.minimum(flat.reshape(drawn.shape), 255)

    def draw(self, statistics: Sequence[Statistic]) -> Draws:
        """Evaluates one statistic per seed; their mean is the point, crossed resampling gives the draws."""
        ones = np.ones((1, self.num_clusters))
        point = np.mean([statistic.values(ones)[0] for statistic in statistics], axis=0)
        samples = np.zeros((self.num_resamples, len(point)))
        for rows in self._chunks(self.num_clusters):
            weights = self._counts[rows].astype(np.float64)
            for index, statistic in enumerate(statistics):
                share = self._seed_share[rows, index, None]
                values = statistic.values(weights)
                samples[rows] += np.where(share > 0, share * values, 0.0)
        return Draws(point, samples)

    def _chunks(self, width: int) -> Iterator[slice]:
        step = max(1, CHUNK_ELEMENTS // max(width, 1))
        for start in range(0, self.num_resamples, step):
            yield slice(start, min(start + step, self.num_resamples))
