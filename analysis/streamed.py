"""Similarity of encoders over more images than fit in memory.

Handed feature vectors a few images at a time, such as from the feature store; hands on the contents of
`similarity.json` as `similarity.similarity_table` does. Up to `KEEP` images everything is kept and computed at once.
Beyond, CKA's HSIC terms are averaged over batches and then divided (Nguyen et al. 2021; averaging the ratios would be
biased), with a jackknife over batches, and neighbours are found among a uniform sample of `KEEP` images. Memory is
KEEP x width and one batch for each encoder, and a few numbers a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student  # type: ignore[import-untyped]

from analysis.leaves import Leaf, not_run, rounded
from analysis.neighbours import neighbour_table
from analysis.similarity import debiased_hsic, similarity_table

BATCH = 256
KEEP = 2000

Features = Mapping[str, Float[np.ndarray, "_ _"]]


class StreamedSimilarity:
    """Takes vectors of the same images by every encoder, in any portions.

    Args:
        keep: images of which all vectors are held.
        batch: images whose HSIC is computed together, at least 4.
        seed: of the sample that is kept.
    """

    def __init__(self, *, keep: int = KEEP, batch: int = BATCH, seed: int = 0) -> None:
        assert batch >= 4
        self.keep, self.batch = keep, batch
        self.count = 0
        self._rng = np.random.default_rng(seed)
        self._kept: dict[str, np.ndarray] = {}
        self._waiting: dict[str, np.ndarray] = {}
        self._terms: dict[tuple[str, str], list[float]] = {}

    def add(self, features: Features) -> None:
        """One portion; rows are the same images in the same order for every encoder.

        Raises:
            ValueError: other encoders than before, or a different number of images among them.
        """
        lengths = {alias: len(rows) for alias, rows in features.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"every encoder needs vectors of the same images, got {lengths}")
        if self._waiting and set(self._waiting) != set(features):
            raise ValueError(f"vectors of {', '.join(features)}, but before of {', '.join(self._waiting)}")
        self._sample(features)
        for alias, rows in features.items():
            rows = np.asarray(rows, dtype=np.float64)
            self._waiting[alias] = np.concatenate([self._waiting[alias], rows]) if alias in self._waiting else rows
        while len(next(iter(self._waiting.values()))) >= self.batch:
            self._take({alias: rows[: self.batch] for alias, rows in self._waiting.items()})
            self._waiting = {alias: rows[self.batch :] for alias, rows in self._waiting.items()}

    def table(self) -> dict[str, Any]:
        """CKA and mutual neighbours of every pair of encoders."""
        if self.count <= self.keep:
            return similarity_table(self._kept)
        pairs = combinations(self._kept, 2)
        cka = [{"encoders": list(pair), **self._cka(pair)} for pair in pairs]
        return {"cka": cka, "mutual_knn": neighbour_table(self._kept)}

    def _sample(self, features: Features) -> None:
        """Reservoir sampling (Vitter 1985): every image seen so far is kept with the same probability."""
        for alias, rows in features.items():
            if alias not in self._kept:
                self._kept[alias] = np.empty((0, rows.shape[1]), dtype=np.float32)
        number = len(next(iter(features.values())))
        fresh = min(number, max(0, self.keep - self.count))
        for alias, rows in features.items():
            self._kept[alias] = np.concatenate([self._kept[alias], np.asarray(rows[:fresh], dtype=np.float32)])
        for row in range(fresh, number):
            place = int(self._rng.integers(self.count + row + 1))
            if place < self.keep:
                for alias, rows in features.items():
                    self._kept[alias][place] = rows[row]
        self.count += number

    def _take(self, batch: Features) -> None:
        centred = {alias: rows - rows.mean(axis=0) for alias, rows in batch.items()}
        for pair in combinations_with_replacement(batch, 2):
            self._terms.setdefault(pair, []).append(debiased_hsic(centred[pair[0]], centred[pair[1]]))

    def _cka(self, pair: tuple[str, str]) -> Leaf:
        first, second = pair
        terms = np.stack([self._terms[key] for key in (pair, (first, first), (second, second))])
        count = terms.shape[1]
        value = _ratio(terms.mean(axis=1))
        if count < 3 or not np.isfinite(value):
            return not_run("undefined: a representation is constant, or there are fewer than three batches")
        without = np.array([_ratio(np.delete(terms, index, axis=1).mean(axis=1)) for index in range(count)])
        error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
        half = float(student.ppf(0.975, count - 1)) * error
        return {
            "value": rounded(value),
            "ci95": [rounded(value - half), rounded(value + half)],
            "n": count * self.batch,
            "chance": 0.0,
        }


def _ratio(terms: Float[np.ndarray, " t"]) -> float:
    across, first, second = terms
    return float(across / np.sqrt(first * second)) if first * second > 0 else float("nan")
