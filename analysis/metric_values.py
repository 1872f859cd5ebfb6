"""What a set of answers is worth: the primary metric of each task, under weights of images.

Handed rows and cells of the answers table; hands on statistics for the bootstrap, one column per cell.
Means are weighted means of the examples' shares, retrieval is the mean of its two directions, AUROC is
computed of the set from weighted ranks with half a point for ties (Mann-Whitney). Evaluated with all
weights 1 they are the metric itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.answers import Cell, Rows
from analysis.bootstrap import Statistic
from analysis.errors import AnswersError
from analysis.shares import Influence

Kind = Literal["mean", "directions", "auroc"]

METRICS: dict[str, Kind] = {
    "accuracy": "mean",
    "vqa_accuracy": "mean",
    "auroc": "auroc",
    "mean_recall": "directions",
}
TASK_METRICS: dict[str, str] = {
    "flickr30k": "mean_recall",
    "coco": "mean_recall",
    "vqa": "vqa_accuracy",
    "gqa": "accuracy",
    "snli_ve": "accuracy",
    "hateful_memes": "auroc",
}
RECALL_RANKS = (1, 5, 10)
SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


def kind_of(metric: str) -> Kind:
    """How a metric is made of answers; one that is not listed is its own task's, a mean of the answers' scores."""
    return METRICS.get(metric, "mean")


def metric_of(task: str, stated: str | None, rows: Rows, cell: Cell) -> str:
    """The name of the primary metric: as stated by the run, else by the task's name, else by what is
    filled."""
    if stated is not None:
        return stated
    if task in TASK_METRICS:
        return TASK_METRICS[task]
    if any(rows.directions):
        return "mean_recall"
    return "auroc" if np.isnan(cell.score).all() else "accuracy"


@dataclass(frozen=True)
class MeanStatistic:
    """Weighted means of `k` columns over examples that share images."""

    sums: Float[np.ndarray, "c k"]
    counts: Float[np.ndarray, " c"]

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        """Weighted means; NaN where no example has weight."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((weights @ self.sums) / (weights @ self.counts)[:, None])

    def added(self) -> Float[np.ndarray, "c k"]:
        """What each image adds."""
        return np.asarray(self.sums / max(float(self.counts.sum()), 1.0))


@dataclass(frozen=True)
class AverageStatistic:
    """The plain mean of several statistics of the same columns, such as the two directions of retrieval."""

    parts: tuple[Statistic, ...]

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        """The mean over parts."""
        return np.asarray(np.mean([part.values(weights) for part in self.parts], axis=0))

    def added(self) -> Float[np.ndarray, "c k"] | None:
        """What each image adds."""
        found = [added for part in self.parts if (added := part.added()) is not None]
        return np.asarray(np.mean(found, axis=0)) if len(found) == len(self.parts) else None


@dataclass(frozen=True)
class AurocStatistic:
    """Area under the ROC curve of `k` columns of probabilities, ties counted half."""

    labels: Bool[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]
    clusters: Int[np.ndarray, " n"]

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        """Weighted share of (positive, negative) pairs in the right order; NaN where a class has no
        weight."""
        positive, negative = weights[:, self.clusters[self.labels]], weights[:, self.clusters[~self.labels]]
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        result = np.empty((len(weights), self.probabilities.shape[1]))
        below = np.zeros((len(weights), negative.shape[1] + 1))
        for column in range(result.shape[1]):
            above, lower = self.probabilities[self.labels, column], self.probabilities[~self.labels, column]
            order = np.argsort(lower, kind="stable")
            np.cumsum(negative[:, order], axis=1, out=below[:, 1:])
            # Half of what lies strictly below and half of what lies at or below: ties count half.
            ends = [np.searchsorted(lower[order], above, side=side) for side in SIDES]
            result[:, column] = sum(np.einsum("rp,rp->r", positive, below[:, end]) for end in ends) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(result / pairs[:, None])

    def added(self) -> None:
        """Nothing: pairs of examples are no sum over images."""
        return None


def mean_statistic(
    columns: Float[np.ndarray, "n k"], rows: Rows, *, keep: Bool[np.ndarray, " n"] | None = None
) -> MeanStatistic:
    """Means of columns over the kept rows."""
    kept = np.ones(len(rows.ids), dtype=bool) if keep is None else keep
    clusters, num_clusters = rows.clusters[kept], rows.num_clusters
    values = np.asarray(columns[kept], dtype=np.float64)
    sums = [np.bincount(clusters, weights=column, minlength=num_clusters) for column in values.T]
    return MeanStatistic(
        np.stack(sums, axis=1), np.bincount(clusters, minlength=num_clusters).astype(np.float64)
    )


def metric_statistic(
    metric: str, rows: Rows, cells: Sequence[Cell], *, keep: Bool[np.ndarray, " n"] | None = None
) -> Statistic:
    """The primary metric of each cell, over all rows or the kept ones.

    Args:
        metric: one of `METRICS`, or the name of the mean of its own task's scores.
        keep: rows of a slice; retrieval then averages over the directions that have any.

    Raises:
        AnswersError: a needed value is null, a rank below 1, an AUROC target that is not 0 or 1.
    """
    kept = np.ones(len(rows.ids), dtype=bool) if keep is None else keep
    if kind_of(metric) == "auroc":
        strange = set(rows.targets) - {"0", "1"}
        if strange:
            raise AnswersError(f"AUROC needs targets '0' and '1', found {sorted(strange)[0]!r}")
        probabilities = _stack(cells, "probability")
        return AurocStatistic(rows.targets[kept] == "1", probabilities[kept], rows.clusters[kept])
    scores = _stack(cells, "score")
    if kind_of(metric) == "mean":
        return mean_statistic(scores, rows, keep=kept)
    return _over_directions(scores, rows, kept)


def influence_of(metric: str, rows: Rows, *, keep: Bool[np.ndarray, " n"] | None = None) -> Influence:
    """What examples and images weigh in the metric over the kept rows.

    A meme moves its pairs with all memes of the other class, so as an upper bound it weighs what one of the smaller
    class does.
    """
    kept = np.ones(len(rows.ids), dtype=bool) if keep is None else keep
    if kind_of(metric) == "directions":
        of_one, directions = recall_influence(rows, keep=kept), len(set(rows.directions[kept]))
        return replace(of_one, example=of_one.example / max(directions, 1))
    counts = np.unique(rows.targets[kept], return_counts=True)[1]
    least = int(counts.min(initial=len(kept))) if kind_of(metric) == "auroc" else int(kept.sum())
    return Influence.of(rows.clusters[kept], num_clusters=rows.num_clusters, count=least)


def recall_influence(rows: Rows, *, keep: Bool[np.ndarray, " n"] | None = None) -> Influence:
    """What queries and images weigh in the recalls of single directions."""
    kept = np.ones(len(rows.ids), dtype=bool) if keep is None else keep
    parts = [
        Influence.of(rows.clusters[kept & (rows.directions == name)], num_clusters=rows.num_clusters)
        for name in set(rows.directions[kept])
    ]
    images = [part.images for part in parts] or [np.zeros(rows.num_clusters)]
    return Influence(max((part.example for part in parts), default=0.0), np.mean(images, axis=0))


def _over_directions(
    columns: Float[np.ndarray, "n k"], rows: Rows, kept: Bool[np.ndarray, " n"]
) -> Statistic:
    names = sorted(set(rows.directions[kept]))
    return AverageStatistic(
        tuple(mean_statistic(columns, rows, keep=kept & (rows.directions == name)) for name in names)
    )


def _stack(cells: Sequence[Cell], column: Literal["score", "probability"]) -> Float[np.ndarray, "n k"]:
    values = np.stack([getattr(cell, column) for cell in cells], axis=1)
    if np.isnan(values).any():
        raise AnswersError(f"{int(np.isnan(values).sum())} answers have no {column}, which the metric needs")
    return np.asarray(values, dtype=np.float64)


def logprob_statistic(rows: Rows, cells: Sequence[Cell]) -> MeanStatistic | None:
    """Mean log-probability of the target in each cell; None where some example has none or minus infinity."""
    values = np.stack([cell.logprob for cell in cells], axis=1)
    return mean_statistic(values, rows) if np.isfinite(values).all() else None


def secondary_statistic(metric: str, rows: Rows, cell: Cell) -> tuple[list[str], Statistic | None]:
    """Names and statistic of what else the field reports: recalls and their sum, or accuracy beside AUROC.

    `rsum` is on the customary scale from 0 to 600; all others are fractions.
    """
    if kind_of(metric) == "auroc":
        return ["accuracy"], mean_statistic(cell.correct[:, None].astype(np.float64), rows)
    if kind_of(metric) != "directions" or (cell.rank < 0).all():
        return [], None
    if (cell.rank < 1).any():
        raise AnswersError(f"retrieval ranks start at 1, found {int(cell.rank.min())}")
    hits = np.stack([cell.rank <= rank for rank in RECALL_RANKS], axis=1).astype(np.float64)
    directions = sorted(set(rows.directions))
    parts = tuple(mean_statistic(hits, rows, keep=rows.directions == name) for name in directions)
    names = [f"recall@{rank}_{name}" for name in directions for rank in RECALL_RANKS]
    return [*names, "rsum"], _Recalls(parts)


@dataclass(frozen=True)
class _Recalls:
    """Recalls of every direction side by side, and their sum in percentage points."""

    parts: tuple[MeanStatistic, ...]

    def values(self, weights: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r k"]:
        recalls = np.concatenate([part.values(weights) for part in self.parts], axis=1)
        return np.concatenate([recalls, 100 * recalls.sum(axis=1, keepdims=True)], axis=1)

    def added(self) -> Float[np.ndarray, "c k"]:
        """What each image adds."""
        recalls = np.concatenate([part.added() for part in self.parts], axis=1)
        return np.concatenate([recalls, 100 * recalls.sum(axis=1, keepdims=True)], axis=1)


def correctness(metric: str, cell: Cell) -> Bool[np.ndarray, " n"]:
    """Right or wrong per example: prediction equals target for AUROC, else a share of at least one half.

    The half is a convention: VQA's shares are soft (0, 0.3, 0.6, 0.9, 1), and a retrieval query with its
    own item among the first five has a share of 2/3.
    """
    return cell.correct if kind_of(metric) == "auroc" else cell.score >= 0.5
