"""How alike the encoders' representations are: debiased linear CKA, and mutual nearest neighbours.

Handed one feature matrix per encoder over the same images; hands on the contents of a run's
`similarity.json`. The biased estimator reports 0.9 for independent features when images are fewer than
dimensions; the debiased one (Song et al. 2012 HSIC, as used by Nguyen et al. 2021) has expectation 0.
Computed in feature space, so memory grows with images x width and never with images squared; `analysis.streamed` bounds
it for any number of images. Similar spaces need not mean similar errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student  # type: ignore[import-untyped]

from analysis.leaves import Leaf, not_run, rounded
from analysis.neighbours import neighbour_table

BLOCKS = 20


def debiased_hsic(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n e"]) -> float:
    """Unbiased linear HSIC of two feature matrices over the same `n` >= 4 images.

    With K~, L~ the Gram matrices with zeroed diagonals:
    [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n(n-3)).
    """
    n = len(first)
    first_norm, second_norm = (first**2).sum(axis=1), (second**2).sum(axis=1)
    trace = float(((first.T @ second) ** 2).sum() - first_norm @ second_norm)
    first_rows = first @ first.sum(axis=0) - first_norm
    second_rows = second @ second.sum(axis=0) - second_norm
    product = float(first_rows.sum() * second_rows.sum()) / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * float(first_rows @ second_rows)) / (n * (n - 3))


def debiased_linear_cka(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m e"]) -> float:
    """Debiased linear CKA: 1 for the same space up to rotation and scale, 0 in expectation when independent.

    Not clamped, so it may be slightly negative. NaN where a representation is constant.

    Raises:
        ValueError: different numbers of images, or fewer than 4.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(
            f"CKA needs the same 4 or more images on both sides, got {len(first)} and {len(second)}"
        )
    # Centring and scaling change nothing in exact arithmetic and much in floating point.
    first, second = _standardised(first), _standardised(second)
    scale = debiased_hsic(first, first) * debiased_hsic(second, second)
    return debiased_hsic(first, second) / float(np.sqrt(scale)) if scale > 1e-24 else float("nan")


def _standardised(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Centred, and scaled to a mean squared length of 1; a constant stays zeros."""
    centred = np.asarray(features, dtype=np.float64) - np.mean(features, axis=0, dtype=np.float64)
    size = float(np.sqrt((centred**2).sum(axis=1).mean()))
    magnitude = float(np.abs(features).max(initial=0.0))
    return centred / size if size > 1e-12 * magnitude else np.zeros_like(centred)


def cka_leaf(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n e"]) -> Leaf:
    """CKA with a 95 % interval from a jackknife over `BLOCKS` blocks of images.

    A bootstrap would repeat images, and repeated images look alike however the diagonal is treated.
    """
    n = len(first)
    if n < 4 * BLOCKS:
        return not_run(f"needs at least {4 * BLOCKS} images, got {n}")
    value = debiased_linear_cka(first, second)
    if not np.isfinite(value):
        return not_run("undefined: a representation is constant")
    block = np.arange(n) * BLOCKS // n
    without = np.array([debiased_linear_cka(first[block != b], second[block != b]) for b in range(BLOCKS)])
    error = float(np.sqrt((BLOCKS - 1) / BLOCKS * ((without - without.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, BLOCKS - 1)) * error
    return {
        "value": rounded(value),
        "ci95": [rounded(value - half), rounded(value + half)],
        "n": n,
        "chance": 0.0,
    }


def similarity_table(features: Mapping[str, Float[np.ndarray, "_ _"]]) -> dict[str, Any]:
    """CKA and mutual nearest neighbours of every pair of encoders, as `similarity.json` stores them.

    Args:
        features: per alias one vector per image, such as the mean over tokens, rows in the same order.
    """
    pairs = combinations(features, 2)
    return {
        "cka": [{"encoders": list(pair), **cka_leaf(features[pair[0]], features[pair[1]])} for pair in pairs],
        "mutual_knn": neighbour_table(features),
    }
