"""The clustered, paired bootstrap.

Handed statistics that can be evaluated under weights of image clusters; hands on `Draws` of all of them under the same
resampled images, seed by seed. Resampling with replacement is a matrix of multinomial counts, resamples x clusters,
kept as bytes: evaluating a mean metric for all coalitions is then one matrix product.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from analysis.draws import Draws
from analysis.shares import Influence, Shares

CHUNK_ELEMENTS = 600_000
"""Influence evaluated at once: bounds memory and stays in cache."""


@runtime_checkable
class Statistic(Protocol):
    """A vector of `k` numbers computed from examples whose images carry weights."""

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        """The numbers under each row of cluster weights; NaN where they are not defined."""
        ...

    def added(self) -> Float[np.ndarray, "c k"] | None:
        """What each image adds to the numbers, which are their sum; None where they are no sums over images."""
        ...


class Resampler:
    """One set of resampled images, shared by everything that is computed about a task."""

    def __init__(self, name: str, *, num_clusters: int, num_resamples: int, seed: int) -> None:
        """Draws the counts; `name` keeps tasks independent of each other and of their order."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.num_clusters, self.num_resamples = num_clusters, num_resamples
        self._counts: UInt8[np.ndarray, "r c"] = np.empty((num_resamples, num_clusters), dtype=np.uint8)
        for rows in self._chunks(num_clusters):
            drawn = rng.integers(0, num_clusters, size=(rows.stop - rows.start, num_clusters), dtype=np.int32)
            drawn += (np.arange(len(drawn), dtype=np.int32) * num_clusters)[:, None]
            flat = np.bincount(drawn.ravel(), minlength=drawn.size)
            self._counts[rows] = np.minimum(flat.reshape(drawn.shape), 255)

    def draw(
        self, statistics: Sequence[Statistic], *, images: int | None = None, influence: Influence | None = None
    ) -> Draws:
        """Evaluates one statistic per seed; their mean is the point.

        Args:
            images: how many images the numbers rest on, where not on all.
            influence: of examples and images, where the statistics are shares of examples.
        """
        images = self.num_clusters if images is None else images
        ones = np.ones((1, self.num_clusters))
        points = np.stack([statistic.values(ones)[0] for statistic in statistics])
        samples = np.empty((len(statistics), self.num_resamples, points.shape[1]))
        for rows in self._chunks(self.num_clusters):
            counts = self._counts[rows].astype(np.float64)
            for index, statistic in enumerate(statistics):
                samples[index, rows] = statistic.values(counts)
        shares = None if influence is None else Shares(influence, np.ones(points.shape[1]), _added(statistics))
        if len(statistics) == 1:
            return Draws(points[0], samples[0], images=images, shares=shares)
        return Draws(points.mean(axis=0), samples.mean(axis=0), points, samples, images=images, shares=shares)

    def _chunks(self, width: int) -> Iterator[slice]:
        step = max(1, CHUNK_ELEMENTS // max(width, 1))
        for start in range(0, self.num_resamples, step):
            yield slice(start, min(start + step, self.num_resamples))


def _added(statistics: Sequence[Statistic]) -> Float[np.ndarray, "c k"] | None:
    """What each image adds to the mean of statistics, of which none or all are sums over images."""
    found = [added for statistic in statistics if (added := statistic.added()) is not None]
    return np.asarray(np.add.reduce(found) / len(found)) if found else None
