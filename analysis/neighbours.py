"""Do two encoders find the same images alike: mutual nearest neighbours.

Handed feature vectors of the same images by two encoders; hands on the mean share of each image's `k` nearest (by
cosine) that both agree on (Huh et al. 2024). Unrelated encoders agree on k / (n - 1) of them, which is the chance level
of the leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm  # type: ignore[import-untyped]

from analysis.leaves import Leaf, not_run, rounded

NEIGHBOURS = 10
ROWS_AT_ONCE = 512


def nearest(features: Float[np.ndarray, "n d"], *, k: int) -> Int[np.ndarray, "n k"]:
    """Each row's k nearest others by cosine, in no order."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(lengths, 1e-12)).astype(np.float32)
    found = np.empty((len(unit), k), dtype=np.int64)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        likeness = unit[start : start + ROWS_AT_ONCE] @ unit.T
        likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -np.inf
        found[start : start + ROWS_AT_ONCE] = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
    return found


def shared(first: Int[np.ndarray, "n k"], second: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Per image the share of neighbours that both lists hold."""
    both: Bool[np.ndarray, "n k"] = (first[:, :, None] == second[:, None, :]).any(axis=2)
    return np.asarray(both.mean(axis=1))


def neighbour_table(features: Mapping[str, Float[np.ndarray, "_ _"]], *, k: int = NEIGHBOURS) -> list[Any] | Leaf:
    """One entry per pair of encoders; the interval takes images as drawn and the gallery as given."""
    n = len(next(iter(features.values())))
    if n < 4 * k:
        return not_run(f"needs at least {4 * k} images for {k} neighbours, got {n}")
    lists = {alias: nearest(rows, k=k) for alias, rows in features.items()}
    entries = []
    for pair in combinations(features, 2):
        shares = shared(lists[pair[0]], lists[pair[1]])
        half = float(norm.ppf(0.975)) * float(shares.std(ddof=1)) / np.sqrt(n)
        value = float(shares.mean())
        entries.append(
            {
                "encoders": list(pair),
                "value": rounded(value),
                "ci95": [rounded(value - half), rounded(value + half)],
                "n": n,
                "chance": rounded(k / (n - 1)),
                "k": k,
            }
        )
    return entries
