"""Numbers with their uncertainty: as observed, under resampled images, and seed by seed.

Handed what `bootstrap.Resampler` drew; hands on intervals, standard errors, p-values and tests of equivalence of any
map of it. All columns saw the same resampled images, so a difference or a linear map of them is paired and its
interval joint.

Uncertainty has two parts. Images, shared by all seeds: the variance over resamples of the mean over seeds, less what
of it is peculiar to single seeds. Seeds: the sample variance of the seeds' own values over their number, which
contains that peculiar part; it knows only K - 1 degrees of freedom. Intervals join the parts as Banerjee (1960) does
for two unknown variances, half width = sqrt(t_images^2 V_images + t_seeds^2 V_seeds), which covers at least what is
asked for. Resampling seeds with replacement, as a plain two-level bootstrap does, is too narrow: its variance misses
a K-th, and the t quantile is not there; `tests/test_analysis_calibration.py` has the figures. With one seed there is
no seeds' part, and the interval is conditional on that seed.

A resample cannot show what no image shows; `shares` says what the variance of a share of examples holds for that. One
image alone has no interval at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.stats import chi2, nct, norm  # type: ignore[import-untyped]
from scipy.stats import t as student

from analysis.shares import Shares

Array = np.ndarray
CONFIDENCE = 0.95
FEW = 100
"""Degrees of freedom up to which a planned test's noncentrality is more than the sum of its quantiles."""
LEAST = 1e-12
"""Smaller probabilities are not told apart."""
UNDEFINED_DRAWS = 0.05
"""Share of resamples in which a number may be undefined before it has no interval."""


class Variances(NamedTuple):
    """What a number's variance is made of.

    Attributes:
        images: of images, but for what of it `seeds` holds.
        seeds: between seeds, over their number.
        peculiar: what `seeds` would be if nothing but the choice of images told seeds apart; more images shrink it.
        added: of the estimate itself.
        rare: of images that could have gone the other way and did not; more of them shrink it twice as fast.
    """

    images: float
    seeds: float
    peculiar: float
    added: float
    rare: float

    def planned(self, times: float, *, freedom: int) -> float:
        """The seeds' part that is to be expected with that many times the images.

        A few seeds' own variance is more often too small than too large; here it is as often the one as the other.
        """
        seeds = self.seeds * freedom / float(chi2.median(freedom))
        return max(seeds - self.peculiar, 0.0) + self.peculiar / times


@dataclass(frozen=True)
class Draws:
    """`k` numbers under `r` resamples of images and `s` seeds.

    Attributes:
        point: as observed, over all seeds.
        samples: the same under every resample of images.
        seed_points: as observed under each seed; None with one seed.
        seed_samples: under each seed and resample; None with one seed.
        added: variance that neither images nor seeds explain, such as that of an estimate from sampled coalitions.
        added_df: its degrees of freedom.
        images: how many images the numbers rest on; None where there are so many that it makes no difference.
        shares: what examples and images weigh in them, where they are shares of examples or differences of such.
    """

    point: Float[np.ndarray, " k"]
    samples: Float[np.ndarray, "r k"]
    seed_points: Float[np.ndarray, "s k"] | None = None
    seed_samples: Float[np.ndarray, "s r k"] | None = None
    added: Float[np.ndarray, " k"] | None = None
    added_df: float = math.inf
    images: int | None = None
    shares: Shares | None = None

    @property
    def num_seeds(self) -> int:
        """How many seeds there were."""
        return 1 if self.seed_points is None else len(self.seed_points)

    def linear(self, matrix: Float[np.ndarray, "m k"]) -> Draws:
        """The same linear map of everything."""
        found = self._map(lambda values: values @ matrix.T)
        return replace(found, shares=self.shares and self.shares.linear(matrix))

    def apply(self, function: Callable[[Array], Array]) -> Draws:
        """A function over the last axis of everything; a scalar result becomes one column. No longer shares."""
        return self._map(lambda values: _columned(function(values), values))

    def each(self, function: Callable[[Array], Array]) -> Draws:
        """The mean over seeds of a function of each seed's own numbers.

        For what is not linear and says something of one model, such as how its errors go together: in a table that is
        averaged over seeds, seeds of unequal skill would show errors that go together where in none they do.
        """
        if self.seed_points is None or self.seed_samples is None:
            return self.apply(function)
        by_seed = _columned(function(self.seed_points), self.seed_points)
        samples = _columned(function(self.seed_samples), self.seed_samples)
        return Draws(by_seed.mean(axis=0), samples.mean(axis=0), by_seed, samples, images=self.images)

    def columns(self, columns: Sequence[int]) -> Draws:
        """A selection of columns."""
        found = self._map(lambda values: values[..., list(columns)])
        return replace(found, shares=self.shares and self.shares.columns(columns))

    def largest(self) -> Draws:
        """The largest of all columns, taken anew in every draw and under every seed.

        Images weigh in it what they do in the column that is the largest as observed.
        """
        found = self._map(lambda values: values.max(axis=-1, keepdims=True))
        return replace(found, shares=self.shares and self.shares.columns([int(self.point.argmax())]))

    def with_constant(self, value: float, *, column: int) -> Draws:
        """Inserts a number that neither images nor seeds change, such as chance."""
        found = self._map(lambda values: np.insert(values, column, value, axis=-1))
        return replace(found, shares=self.shares and self.shares.with_constant(value, column=column))

    def minus(self, other: Draws) -> Draws:
        """Column by column, under the same resamples and seeds."""
        return self.beside(other).linear(
            np.concatenate([np.eye(len(self.point)), -np.eye(len(self.point))], axis=1)
        )

    def beside(self, other: Draws) -> Draws:
        """The columns of both."""

        def joined(mine: Array | None, theirs: Array | None) -> Array | None:
            return None if mine is None or theirs is None else np.concatenate([mine, theirs], axis=-1)

        return Draws(
            np.concatenate([self.point, other.point]),
            np.concatenate([self.samples, other.samples], axis=1),
            joined(self.seed_points, other.seed_points),
            joined(self.seed_samples, other.seed_samples),
            images=self.images,
            shares=self.shares and other.shares and self.shares.beside(other.shares),
        )

    def _map(self, function: Callable[[Array], Array]) -> Draws:
        """A function of everything; what images weigh in it is not known."""
        assert self.added is None, "the error of an estimate belongs to its last step"
        by_seed = None if self.seed_points is None else function(self.seed_points)
        samples_by_seed = None if self.seed_samples is None else function(self.seed_samples)
        mapped = function(self.point), function(self.samples), by_seed, samples_by_seed
        return Draws(*mapped, images=self.images)

    def variances(self, column: int) -> Variances:
        """The parts of a number's variance."""
        added = 0.0 if self.added is None else float(self.added[column])
        rare = 0.0 if self.shares is None else self.shares.rare(column)
        # Resampling n images shows (n - 1) / n of the variance of their mean.
        unbiased = 1.0 if self.images is None else self.images / max(self.images - 1, 1)
        images = unbiased * float(np.nanvar(self.samples[:, column], ddof=1))
        if self.seed_points is None or self.seed_samples is None:
            return Variances(images, 0.0, 0.0, added, rare)
        own, count = self.seed_samples[:, :, column], self.num_seeds
        peculiar = unbiased * float(np.nanvar(own - own.mean(axis=0), axis=1, ddof=1).sum()) / (count * (count - 1))
        between = float(np.var(self.seed_points[:, column], ddof=1)) / count
        # What is peculiar to seeds is in the seeds' part; of seeds that happen to agree it holds less than that.
        return Variances(max(images - min(peculiar, between), 0.0), between, peculiar, added, rare)

    def standard_error(self, column: int) -> float:
        """Square root of the whole variance."""
        parts = self.variances(column)
        return math.sqrt(parts.images + parts.rare + parts.seeds + parts.added)

    def half_width(self, column: int, probability: float) -> float:
        """How far the quantile of that probability (above one half) lies from the point, after Banerjee (1960)."""
        return _half_width(self._parts(column), probability)

    def detectable(self, column: int, *, level: float, power: float, times: float = 1.0) -> float:
        """The true value that a two-sided test at that level finds with that probability.

        Parts are joined as in intervals, each with the noncentrality that its t test needs: with few degrees of freedom
        and a strict level that is more than the sum of two quantiles.

        Args:
            times: as if there were that many times the images; the seeds' part is then at least what the choice of
                images makes of it, as few seeds that happen to agree promise too much.
        """
        parts = self._parts(column, times)
        return math.sqrt(sum(variance * _noncentrality(level, power, df) ** 2 for variance, df in parts))

    def _parts(self, column: int, times: float | None = None) -> list[tuple[float, float]]:
        """Variances with their degrees of freedom."""
        found = self.variances(column)
        few = max(self.num_seeds - 1, 1)
        seeds, times = (found.seeds, 1.0) if times is None else (found.planned(times, freedom=few), times)
        images = math.inf if self.images is None else max(self.images * times - 1, 1)
        freedom = (images, max(self.num_seeds - 1, 1), self.added_df)
        parts = zip((found.images / times + found.rare / times**2, seeds, found.added), freedom, strict=True)
        return [part for part in parts if part[0] > 0]

    def interval(self, column: int, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """The interval at that confidence; None where `why_no_interval` says why.

        Percentiles over resampled images, moved so that the draws' mean lies on the point (which takes the
        resampling's own bias off) and stretched for the variance that resampling images does not show.
        """
        if self.why_no_interval(column) is not None:
            return None
        kept = self.samples[:, column]
        kept = kept[np.isfinite(kept)]
        point = float(self.point[column])
        tail = (1 - confidence) / 2
        half = self.half_width(column, 1 - tail)
        spread = float(kept.std(ddof=1))
        if spread <= 1e-12:
            return point - half, point + half
        stretch = half / (float(norm.ppf(1 - tail)) * spread)
        low, high = np.percentile(kept, [100 * tail, 100 * (1 - tail)]) - kept.mean()
        return point + stretch * float(low), point + stretch * float(high)

    def why_no_interval(self, column: int) -> str | None:
        """Why a number has no interval; None where it has one."""
        by_seed = self.point[None] if self.seed_points is None else self.seed_points
        if not (np.isfinite(self.point[column]) and np.isfinite(by_seed[:, column]).all()):
            return "undefined"
        if self.images is not None and self.images < 2:
            return "rests on one image, which shows no variance"
        lacking = float(np.mean(~np.isfinite(self.samples[:, column])))
        return f"undefined in {lacking:.0%} of the resamples" if lacking > UNDEFINED_DRAWS else None

    def p_value(self, column: int) -> float:
        """Two-sided p of "the number is 0"; 1 where it has no interval.

        With several seeds: of the t distribution. With one: how often a resample strays from the draws' mean by as much
        as 0 does, at least 1 / (resamples + 1), and no less than of the normal distribution.
        """
        if self.why_no_interval(column) is not None:
            return 1.0
        point = float(self.point[column])
        found = min(1.0, 2 * _tail(self._parts(column), abs(point)))
        if self.num_seeds > 1 or self.added is not None:
            return found
        draws = self.samples[:, column]
        draws = draws[np.isfinite(draws)]
        strays = np.abs(draws - draws.mean()) >= abs(point) - 1e-12
        return max(found, float((1 + strays.sum()) / (1 + len(draws))))

    def p_equivalent(self, column: int, *, margin: float) -> float:
        """p of two one-sided tests (TOST, Schuirmann 1987) of "the number is at least `margin` away from 0"."""
        parts, point = self._parts(column), float(self.point[column])
        return max(_tail(parts, margin - side * point) for side in (-1, 1))


def _columned(found: Array | np.floating[Any], values: Array) -> Array:
    result = np.asarray(found)
    return result[..., None] if result.ndim < values.ndim else result


@lru_cache(maxsize=4096)
def _quantile(probability: float, freedom: float) -> float:
    return float(student.ppf(probability, freedom))


@lru_cache(maxsize=4096)
def _noncentrality(level: float, power: float, freedom: float) -> float:
    critical = _quantile(1 - level / 2, freedom)
    usual = critical + _quantile(power, freedom)
    if freedom > FEW:
        return usual
    return float(brentq(lambda shift: nct.sf(critical, freedom, shift) - power, 0.5 * usual, 3 * usual))


def _half_width(parts: list[tuple[float, float]], probability: float) -> float:
    return math.sqrt(sum(variance * _quantile(probability, df) ** 2 for variance, df in parts))


def _tail(parts: list[tuple[float, float]], distance: float) -> float:
    """The one-sided probability whose half width is `distance`: 1/2 at 0, more where it is negative."""
    if distance < 0:
        return 1 - _tail(parts, -distance)
    if sum(variance for variance, _ in parts) <= 1e-24:
        return 0.5 if distance <= 1e-12 else 0.0
    if _half_width(parts, 1 - LEAST) <= distance:
        return LEAST
    return 1 - float(brentq(lambda p: _half_width(parts, p) - distance, 0.5, 1 - LEAST, xtol=1e-14))
