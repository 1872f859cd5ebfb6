"""From similarities to per-query answers in both directions, by contrast alone or re-ranked by matching.

A gallery is the distinct images of a split's captions. Contrast answers come from the full similarity matrix;
matching, which is too dear for every pair, re-orders only the shortlist of each query. Both are returned as
`Answer`s with rank and score, so both numbers can be reported. The tie rule is that of
`tasks.retrieval_metrics`, in the shortlist too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.base import Answer, Example
from tasks.errors import TaskError
from tasks.retrieval_metrics import BLOCK, check_gallery, query_score, retrieval_ranks

Direction = Literal["i2t", "t2i"]


@dataclass(frozen=True)
class Gallery:
    """Captions and the distinct images that they belong to.

    Attributes:
        images: in order of first appearance; row order of every similarity matrix.
        owner: row of each caption's image.
    """

    captions: list[Example]
    images: list[str]
    owner: Int[Tensor, " captions"]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Gallery:
        """The gallery of these captions. Raises TaskError if there are none."""
        if not examples:
            raise TaskError("a gallery needs at least one caption")
        rows = {image: row for row, image in enumerate(dict.fromkeys(example.image for example in examples))}
        owner = torch.tensor([rows[example.image] for example in examples])
        return cls(captions=list(examples), images=list(rows), owner=owner)

    def own_captions(self) -> list[list[int]]:
        """Columns of each image's captions."""
        columns: list[list[int]] = [[] for _ in self.images]
        for column, row in enumerate(self.owner.tolist()):
            columns[row].append(column)
        return columns


@dataclass(frozen=True)
class Shortlist:
    """What matching re-ranks: for each query the nearest items by contrast, best first.

    Attributes:
        i2t: captions (columns) for each image.
        t2i: images (rows) for each caption.
    """

    i2t: Int[Tensor, "images k"]
    t2i: Int[Tensor, "captions n"]

    def pairs(self) -> Int[Tensor, "p 2"]:
        """The distinct (image row, caption column) pairs that matching must score, in row-major order."""
        num_captions = len(self.t2i)
        return torch.stack((self.cells // num_captions, self.cells % num_captions), dim=1)

    @cached_property
    def cells(self) -> Int[Tensor, " p"]:
        """The pairs as positions in the matrix, row after row, in ascending order."""
        by_image, by_caption = self.cells_of_queries()
        distinct: Tensor = torch.unique(torch.cat((by_image.reshape(-1), by_caption.reshape(-1))))
        return distinct

    def cells_of_queries(self) -> tuple[Int[Tensor, "images k"], Int[Tensor, "captions n"]]:
        """Positions in the matrix of what is listed for each image and for each caption."""
        num_captions = len(self.t2i)
        by_image = torch.arange(len(self.i2t))[:, None] * num_captions + self.i2t
        return by_image, self.t2i * num_captions + torch.arange(num_captions)[:, None]


def retrieval_answers(
    similarity: Float[Tensor, "images captions"],
    examples: Sequence[Example],
    *,
    scale: float | None = None,
) -> list[Answer]:
    """One answer for each image (i2t) and then one for each caption (t2i).

    An i2t answer has the image as id and slices that all of its captions share; its target lists the ids of
    its captions.

    Args:
        similarity: rows in the order of `Gallery.of(examples).images`, columns in that of `examples`.
        scale: the contrast's inverse temperature; when given, logprob is of the own item(s) under the
            softmax.
    """
    gallery = Gallery.of(examples)
    _check_shape(similarity, gallery)
    similarity = similarity.detach().cpu()
    ranks = retrieval_ranks(similarity, gallery.owner)
    tops, logprobs = _tops_and_logprobs(similarity, gallery, scale)
    return _answers(gallery, (ranks.i2t.tolist(), ranks.t2i.tolist()), tops, logprobs)


def shortlist(
    similarity: Float[Tensor, "images captions"], examples: Sequence[Example], *, size: int
) -> Shortlist:
    """The `size` nearest items of each query (all, where the gallery is smaller). Among equals, own items
    come last.

    Raises:
        TaskError: `size` is below 1, or the matrix does not fit the examples.
    """
    if size < 1:
        raise TaskError(f"a shortlist of {size} holds nothing: give 1 or more")
    gallery = Gallery.of(examples)
    _check_shape(similarity, gallery)
    scores = _finite(similarity.detach().cpu()).numpy()
    owner = gallery.owner.numpy()
    by_image = [_nearest(row, owner == image, size) for image, row in enumerate(scores)]
    rows = np.arange(len(gallery.images))
    by_caption = [_nearest(scores[:, column], rows == image, size) for column, image in enumerate(owner)]
    return Shortlist(i2t=torch.from_numpy(np.stack(by_image)), t2i=torch.from_numpy(np.stack(by_caption)))


def rerank(
    similarity: Float[Tensor, "images captions"],
    examples: Sequence[Example],
    listed: Shortlist,
    logits: Float[Tensor, " p"],
) -> list[Answer]:
    """Answers with each query's shortlist re-ordered by matching; what is not listed keeps its rank by
    contrast.

    Args:
        listed: from `shortlist` of the same similarities.
        logits: of matching, for `listed.pairs()` in order.

    Raises:
        TaskError: there is not one logit for each pair.
    """
    gallery = Gallery.of(examples)
    _check_shape(similarity, gallery)
    if len(listed.cells) != len(logits):
        raise TaskError(f"{len(logits)} match logits for {len(listed.cells)} shortlisted pairs")
    matched = logits.detach().cpu().double()
    contrast = retrieval_ranks(similarity.detach().cpu(), gallery.owner)
    by_image, by_caption = (matched[torch.searchsorted(listed.cells, cells)] for cells in listed.cells_of_queries())
    own_captions = gallery.owner[listed.i2t] == torch.arange(len(gallery.images))[:, None]
    i2t = _places(by_image, own_captions, contrast.i2t)
    t2i = _places(by_caption, listed.t2i == gallery.owner[:, None], contrast.t2i)
    tops = _picked(listed.i2t, i2t[1]), _picked(listed.t2i, t2i[1])
    return _answers(gallery, (i2t[0].tolist(), t2i[0].tolist()), tops, None)


def _places(
    values: Float[Tensor, "q k"], own: Bool[Tensor, "q k"], otherwise: Int[Tensor, " q"]
) -> tuple[Int[Tensor, " q"], Int[Tensor, " q"]]:
    """For each query the rank of its best own item among the shortlisted, and which place holds the first item.

    Args:
        values: of the shortlisted; ties go against own items, and so does what is not a number.
        otherwise: ranks of queries whose own items are not listed.
    """
    values = torch.where(values.isnan(), torch.where(own, -inf, inf), values)
    best_own = values.masked_fill(~own, -inf).amax(1, keepdim=True)
    beaten = ((values >= best_own) & ~own).sum(1)
    first = values == values.amax(1, keepdim=True)
    return torch.where(own.any(1), 1 + beaten, otherwise), (2 * first.int() - (first & own).int()).argmax(1)


def _picked(items: Int[Tensor, "q k"], places: Int[Tensor, " q"]) -> list[int]:
    picked: list[int] = items.gather(1, places[:, None])[:, 0].tolist()
    return picked


def _nearest(scores: np.ndarray, own: np.ndarray, size: int) -> np.ndarray:
    """Positions of the `size` highest scores, best first, own items after their equals."""
    size = min(size, len(scores))
    bar = np.partition(scores, len(scores) - size)[len(scores) - size]
    candidates = np.flatnonzero(scores >= bar)
    order = np.lexsort((candidates, own[candidates], -scores[candidates]))
    return candidates[order[:size]]


def _tops_and_logprobs(
    similarity: Float[Tensor, "images captions"], gallery: Gallery, scale: float | None
) -> tuple[tuple[list[int], list[int]], tuple[list[float], list[float]] | None]:
    """First item of each query (a rival, among equals) and, given a scale, logprob of the own items."""
    owner, num_images = gallery.owner, len(gallery.images)
    columns = torch.arange(len(owner))
    top_captions, rival = [], torch.full((len(owner),), -torch.inf, dtype=similarity.dtype)
    rival_row = torch.zeros(len(owner), dtype=torch.int64)
    total = torch.full((len(owner),), -torch.inf, dtype=torch.float64)
    own_mass, all_mass = [], []
    for start in range(0, num_images, BLOCK):
        block = _finite(similarity[start : start + BLOCK])
        own = owner[None] == torch.arange(start, start + len(block))[:, None]
        others = block.masked_fill(own, -torch.inf)
        best_own, best_other = block.masked_fill(~own, -torch.inf).max(1), others.max(1)
        top_captions += torch.where(
            best_own.values > best_other.values, best_own.indices, best_other.indices
        ).tolist()
        highest = others.max(0)
        rival_row = torch.where(highest.values > rival, start + highest.indices, rival_row)
        rival = torch.maximum(rival, highest.values)
        if scale is not None:
            logits = block.double() * scale
            own_mass += logits.masked_fill(~own, -torch.inf).logsumexp(1).tolist()
            all_mass += logits.logsumexp(1).tolist()
            total = torch.logaddexp(total, logits.logsumexp(0))
    own_score = _finite(similarity[owner, columns])
    top_images = torch.where(own_score > rival, owner, rival_row).tolist()
    if scale is None:
        return (top_captions, top_images), None
    i2t = [own - every for own, every in zip(own_mass, all_mass, strict=True)]
    return (top_captions, top_images), (i2t, (own_score.double() * scale - total).tolist())


def _answers(
    gallery: Gallery,
    ranks: tuple[list[int], list[int]],
    tops: tuple[list[int], list[int]],
    logprobs: tuple[list[float], list[float]] | None,
) -> list[Answer]:
    captions, answers = gallery.captions, []
    for row, (image, columns) in enumerate(zip(gallery.images, gallery.own_captions(), strict=True)):
        own = [captions[column] for column in columns]
        shared = set(own[0].slices.items()).intersection(*(caption.slices.items() for caption in own))
        prediction, target = captions[tops[0][row]].id, " ".join(caption.id for caption in own)
        logprob = None if logprobs is None else logprobs[0][row]
        answers.append(
            _answer(image, image, "i2t", prediction, target, ranks[0][row], logprob, dict(sorted(shared)))
        )
    for column, caption in enumerate(captions):
        prediction, logprob = (
            gallery.images[tops[1][column]],
            None if logprobs is None else logprobs[1][column],
        )
        slices = dict(caption.slices)
        answers.append(
            _answer(
                caption.id, caption.image, "t2i", prediction, caption.image, ranks[1][column], logprob, slices
            )
        )
    return answers


def _answer(
    key: str,
    image: str,
    direction: Direction,
    prediction: str,
    target: str,
    rank: int,
    logprob: float | None,
    slices: dict[str, str],
) -> Answer:
    return Answer(
        id=key,
        image=image,
        direction=direction,
        prediction=prediction,
        target=target,
        score=query_score(rank),
        probability=None,
        logprob=logprob,
        rank=rank,
        slices=slices,
    )


def _finite(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What is not a number is put last."""
    return torch.where(values.isnan(), -torch.inf, values)


def _check_shape(similarity: Float[Tensor, "images captions"], gallery: Gallery) -> None:
    expected = (len(gallery.images), len(gallery.captions))
    if tuple(similarity.shape) != expected:
        raise TaskError(
            f"similarities of shape {tuple(similarity.shape)} for a gallery of (images, captions) {expected}"
        )
    check_gallery(similarity, gallery.owner)
