"""The retrieval objective: contrast of images and texts, and matching of pairs encoded together.

Contrast is symmetric InfoNCE with a learned temperature over unit-length projections; every caption of an
image is a positive for it, wherever in the batch (targets by image id, as ALBEF), so images with several
captions do not repel their own. Matching scores the joint encoding: own pairs come with the `joint` stream,
hard negatives are drawn here from the batch by similarity and encoded by the trainer. A batch must share one
coalition, else negatives could be told apart by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base import Answer, Example, Objective, Pair, States, Stream
from tasks.heads import MlpHead, Projection
from tasks.retrieval_answers import Gallery, retrieval_answers

MAX_SCALE = 100.0  # CLIP's bound on the inverse temperature


@final
class RetrievalObjective(Objective):
    """Image-text contrast and matching.

    Args:
        shared: width of the shared space.
        temperature: where the learned temperature starts.
        match_weight: weight of matching beside contrast; own pairs and negatives each make up half of it.
        negatives: "both" draws an image for each text and a text for each image; "alternate" draws one of the
            two for each example in turn, at half the cost.
    """

    kind = "retrieval"
    streams = ("image", "text", "joint")
    empty = "skip"
    scoring = "gallery"

    def __init__(
        self,
        *,
        task: str,
        width: int,
        shared: int = 256,
        temperature: float = 0.07,
        match_weight: float = 1.0,
        negatives: Literal["both", "alternate"] = "both",
    ) -> None:
        super().__init__(task=task, width=width)
        self.settings: dict[str, object] = {
            "shared": shared,
            "temperature": temperature,
            "match_weight": match_weight,
            "negatives": negatives,
        }
        self.match_weight = match_weight
        self.negatives = negatives
        self.image_projection = Projection(width=width, shared=shared)
        self.text_projection = Projection(width=width, shared=shared)
        self.log_scale = nn.Parameter(torch.tensor(log(1 / temperature)))
        self.match_head = MlpHead(width=width, num_outputs=1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Inverse temperature."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def embed_images(self, pooled: Float[Tensor, "b k w"]) -> Float[Tensor, "b d"]:
        """Unit-length embeddings of the image stream."""
        embedded: Tensor = self.image_projection(pooled)
        return embedded

    def embed_texts(self, pooled: Float[Tensor, "b k w"]) -> Float[Tensor, "b d"]:
        """Unit-length embeddings of the text stream."""
        embedded: Tensor = self.text_projection(pooled)
        return embedded

    def match_logits(self, pooled: Float[Tensor, "p k w"]) -> Float[Tensor, " p"]:
        """Logit of image and text belonging together, from the joint stream."""
        logits: Tensor = self.match_head(pooled)[:, 0]
        return logits

    def loss(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Contrast, plus the own pairs' half of matching."""
        similarity = self._similarity(states)
        belongs = own_mask(examples).to(similarity.device)
        contrast = contrastive_loss(similarity * self.scale, belongs)
        own = torch.ones(len(examples), dtype=torch.long, device=similarity.device)
        return contrast + self.match_loss(states["joint"].pooled, own)

    def match_loss(self, pooled: Float[Tensor, "p k w"], labels: Int[Tensor, " p"]) -> Float[Tensor, ""]:
        """Half of the matching loss: mean binary cross-entropy of these pairs."""
        logits = self.match_logits(pooled).float()
        return 0.5 * self.match_weight * F.binary_cross_entropy_with_logits(logits, labels.to(logits))

    @torch.no_grad()
    def pairs(
        self,
        states: Mapping[Stream, States],
        examples: Sequence[Example],
        *,
        generator: torch.Generator | None = None,
    ) -> list[Pair]:
        """Negative pairs: for a text an image that is not its own, for an image a text that is not its own.

        Drawn in proportion to the softmax of the scaled similarity with a (CPU) generator, the hardest
        without one. A row whose batch holds only its own image has no negative, and none at all are drawn
        when matching has no weight.
        """
        if self.match_weight == 0:
            return []
        scores = (
            (self._similarity(states) * self.scale).float().cpu().masked_fill(own_mask(examples), -torch.inf)
        )
        drawn = []
        for row, (image, text) in enumerate(
            zip(_draw(scores.T, generator), _draw(scores, generator), strict=True)
        ):
            if image is not None and (self.negatives == "both" or row % 2 == 0):
                drawn.append(Pair(text=row, image=image, label=0))
            if text is not None and (self.negatives == "both" or row % 2 == 1):
                drawn.append(Pair(text=text, image=row, label=0))
        return drawn

    @torch.no_grad()
    def answers(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> list[Answer]:
        """Contrast answers with these examples as the whole gallery; a split is evaluated through
        `retrieval_answers`.
        """
        gallery = Gallery.of(examples)
        first = [columns[0] for columns in gallery.own_captions()]
        similarity = self._similarity(states).float()[first]
        return retrieval_answers(similarity, examples, scale=self.scale.item())

    def describe(self) -> dict[str, object]:
        return {"kind": self.kind, "task": self.task, "width": self.width, **self.settings}

    def _similarity(self, states: Mapping[Stream, States]) -> Float[Tensor, "b b"]:
        return self.embed_images(states["image"].pooled) @ self.embed_texts(states["text"].pooled).T


def own_mask(examples: Sequence[Example]) -> Bool[Tensor, "b b"]:
    """Which captions (columns) belong to which examples' images (rows)."""
    owner = Gallery.of(examples).owner
    return owner[:, None] == owner[None]


def contrastive_loss(logits: Float[Tensor, "b b"], belongs: Bool[Tensor, "b b"]) -> Float[Tensor, ""]:
    """Symmetric cross-entropy against targets spread evenly over each row's and each column's positives."""
    logits, weights = logits.float(), belongs.float()
    by_image = -(weights / weights.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    by_text = -(weights / weights.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (by_image + by_text) / 2


def _draw(scores: Float[Tensor, "b b"], generator: torch.Generator | None) -> list[int | None]:
    """A column for each row, None where every column is masked by -inf."""
    possible = scores.isfinite().any(1)
    chances = scores.masked_fill(~possible[:, None], 0.0).softmax(1)
    chosen = (
        chances.argmax(1) if generator is None else torch.multinomial(chances, 1, generator=generator)[:, 0]
    )
    return [
        column if allowed else None
        for column, allowed in zip(chosen.tolist(), possible.tolist(), strict=True)
    ]
