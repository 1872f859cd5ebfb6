"""Values with their 95% interval and n: examples of one image are one cluster, since they share what was seen.

Means (and means of two means) have the interval of the cluster-robust normal approximation, which depends on neither a
seed nor the order; the area under the ROC curve, which is of the set, that of a bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959963984540054  # the normal's 97.5% point
DRAWS = 500
Leaf = dict[str, Any]


def mean_leaf(scores: Sequence[float], images: Sequence[str], *, chance: float | None = None) -> Leaf:
    """Mean of scores in [0, 1], clustered by image."""
    return means_leaf([(scores, images)], chance=chance)


def means_leaf(
    parts: Sequence[tuple[Sequence[float], Sequence[str]]], *, chance: float | None = None
) -> Leaf:
    """Mean of the parts' means, such as of the two directions of retrieval; parts share their images.

    The variance is that of the summed influences of each image: sum of (score - mean of its part) / size of its part.
    """
    influence: dict[str, float] = {}
    values = []
    for scores, images in parts:
        array = np.asarray(scores, dtype=np.float64)
        values.append(float(array.mean()))
        for image, share in zip(images, ((array - array.mean()) / (len(array) * len(parts))).tolist(), strict=True):
            influence[image] = influence.get(image, 0.0) + share
    value, clusters = sum(values) / len(values), len(influence)
    leaf: Leaf = {"value": value, "ci95": None, "n": sum(len(scores) for scores, _ in parts)}
    if clusters > 1:
        error = Z * (clusters / (clusters - 1) * sum(share**2 for share in influence.values())) ** 0.5
        leaf["ci95"] = [max(0.0, value - error), min(1.0, value + error)]
    return leaf if chance is None else leaf | {"chance": chance}


def auroc_leaf(targets: Sequence[int], probabilities: Sequence[float], images: Sequence[str]) -> Leaf:
    """Area under the ROC curve, with a percentile interval over resampled images."""
    positive = np.asarray(targets, dtype=np.float64)
    _, level = np.unique(np.asarray(probabilities), return_inverse=True)
    _, cluster = np.unique(np.asarray(images), return_inverse=True)
    rng, num = np.random.default_rng(0), int(cluster.max()) + 1
    draws = []
    for _ in range(DRAWS if num > 1 else 0):
        weights = rng.multinomial(num, [1 / num] * num)[cluster]
        if 0 < (weights * positive).sum() < weights.sum():
            draws.append(_area(positive, level, weights))
    interval = [float(bound) for bound in np.quantile(draws, [0.025, 0.975])] if draws else None
    return {"value": _area(positive, level, np.ones(len(positive))), "ci95": interval, "n": len(targets), "chance": 0.5}


def _area(positive: np.ndarray, level: np.ndarray, weights: np.ndarray) -> float:
    """The share of pairs in which the positive is above, a tie counting one half."""
    above, below = np.bincount(level, weights * positive), np.bincount(level, weights * (1 - positive))
    return float((above * (np.cumsum(below) - below / 2)).sum() / (above.sum() * below.sum()))
