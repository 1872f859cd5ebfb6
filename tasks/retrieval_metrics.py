"""Image-text retrieval: ranks under a tie rule that never favours the model, recalls, folds, exact chance.

Handed a similarity matrix of images x captions and which image each caption belongs to. Image to text (i2t)
succeeds at k when any own caption is among the top k, text to image (t2i) when the own image is. **Tie
rule**: every rival whose similarity equals the own item's is ranked before it, and a similarity that is not a
number loses to (or, for a rival, wins over) everything; so a model that scores all pairs alike is last
everywhere. Work goes through the matrix in row blocks, so memory beyond it is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.errors import TaskError

CUTOFFS = (1, 5, 10)
BLOCK = 256  # images ranked at a time


class Ranks(NamedTuple):
    """Rank (1 is best) of the best own caption for each image, and of the own image for each caption."""

    i2t: Int[Tensor, " images"]
    t2i: Int[Tensor, " captions"]


@dataclass(frozen=True)
class Recalls:
    """Fractions of queries that succeed at k = 1, 5, 10."""

    i2t: Mapping[int, float]
    t2i: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean of the six recalls: the primary metric."""
        return (sum(self.i2t.values()) + sum(self.t2i.values())) / (2 * len(CUTOFFS))

    @property
    def rsum(self) -> float:
        """Sum of the six recalls in percent, as papers print it."""
        return 100 * (sum(self.i2t.values()) + sum(self.t2i.values()))


def check_gallery(similarity: Float[Tensor, "images captions"], owner: Int[Tensor, " captions"]) -> None:
    """Raises TaskError unless each caption has an image of the gallery and each image a caption."""
    num_images, num_captions = similarity.shape
    if num_captions == 0 or num_images == 0:
        raise TaskError(f"a gallery of {num_images} images and {num_captions} captions cannot be ranked")
    if int(owner.min()) < 0 or int(owner.max()) >= num_images:
        raise TaskError(
            f"captions belong to images {int(owner.min())}..{int(owner.max())} of a gallery of {num_images}"
        )
    if int(torch.bincount(owner, minlength=num_images).min()) == 0:
        raise TaskError("an image of the gallery has no caption, so nothing can be retrieved for it")


def retrieval_ranks(similarity: Float[Tensor, "images captions"], owner: Int[Tensor, " captions"]) -> Ranks:
    """Ranks in both directions.

    Args:
        similarity: higher is more alike.
        owner: row of the image that each caption belongs to.
    """
    check_gallery(similarity, owner)
    num_images, num_captions = similarity.shape
    columns = torch.arange(num_captions, device=similarity.device)
    own = similarity[owner, columns]
    own = torch.where(own.isnan(), -torch.inf, own)
    best = own.new_full((num_images,), -torch.inf).scatter_reduce(0, owner, own, "amax")
    caption_beaten = torch.zeros(num_captions, dtype=torch.int64, device=similarity.device)
    image_beaten = torch.zeros(num_images, dtype=torch.int64, device=similarity.device)
    for start in range(0, num_images, BLOCK):
        block = similarity[start : start + BLOCK]
        caption_beaten += _not_below(block, own).sum(0)
        image_beaten[start : start + BLOCK] = _not_below(block, best[start : start + BLOCK, None]).sum(1)
    # A query's own items were counted among those not below it; take them out again.
    self_counted = _not_below(similarity[owner, columns], best[owner]).long()
    image_beaten -= torch.zeros_like(image_beaten).scatter_add(0, owner, self_counted)
    return Ranks(i2t=1 + image_beaten, t2i=caption_beaten)


def recall_at(ranks: Int[Tensor, " queries"]) -> dict[int, float]:
    """Fraction of queries with rank at most k, for each cut-off."""
    return {k: (ranks <= k).double().mean().item() for k in CUTOFFS}


def recalls(ranks: Ranks) -> Recalls:
    """The six recalls."""
    return Recalls(i2t=recall_at(ranks.i2t), t2i=recall_at(ranks.t2i))


def query_score(rank: int) -> float:
    """A query's share of mean recall: the fraction of cut-offs at which it succeeds."""
    return sum(rank <= k for k in CUTOFFS) / len(CUTOFFS)


def fold_recalls(
    similarity: Float[Tensor, "images captions"],
    owner: Int[Tensor, " captions"],
    *,
    size: int = 1000,
    captions: int = 5,
) -> Recalls:
    """COCO 1K: mean recalls over consecutive folds of `size` images with their first `captions` captions
    each.

    Images left over after the last whole fold are not used, nor are captions beyond the first five.

    Raises:
        TaskError: the gallery is smaller than one fold, or an image has too few captions.
    """
    check_gallery(similarity, owner)
    num_folds = similarity.shape[0] // size
    if num_folds == 0:
        raise TaskError(f"a fold of {size} images does not fit a gallery of {similarity.shape[0]}")
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=similarity.shape[0])
    if int(counts.min()) < captions:
        raise TaskError(f"folds take {captions} captions an image, but one image has {int(counts.min())}")
    position = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    kept = order[position < captions]  # by image, then in the captions' order
    folds = []
    for fold in range(num_folds):
        columns = kept[fold * size * captions : (fold + 1) * size * captions]
        block = similarity[fold * size : (fold + 1) * size][:, columns]
        folds.append(recalls(retrieval_ranks(block, owner[columns] - fold * size)))
    return Recalls(
        i2t={k: sum(fold.i2t[k] for fold in folds) / num_folds for k in CUTOFFS},
        t2i={k: sum(fold.t2i[k] for fold in folds) / num_folds for k in CUTOFFS},
    )


def chance_mean_recall(captions_per_image: Sequence[int]) -> float:
    """Expected mean recall of a uniformly random ranking of this gallery, exactly.

    A caption's own image is in the top k of I with probability min(k, I) / I; an image with m of all M
    captions has none of them there with probability C(M - m, k) / C(M, k).
    """
    num_images, total = len(captions_per_image), sum(captions_per_image)
    if num_images == 0 or min(captions_per_image) < 1:
        raise TaskError("chance needs a gallery in which every image has a caption")
    t2i = [min(k, num_images) / num_images for k in CUTOFFS]
    i2t = []
    for k in (min(k, total) for k in CUTOFFS):
        missed = {m: comb(total - m, k) / comb(total, k) for m in set(captions_per_image)}
        i2t.append(1 - sum(missed[m] for m in captions_per_image) / num_images)
    return (sum(t2i) + sum(i2t)) / (2 * len(CUTOFFS))


def _not_below(values: Float[Tensor, "*shape"], bar: Float[Tensor, "*other"]) -> Bool[Tensor, "*result"]:
    """Whether a value is not strictly below the bar; true for what is not a number."""
    return ~(values < bar)
