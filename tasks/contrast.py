"""The retrieval objective: contrast of images and texts, and matching of pairs encoded together.

Contrast is symmetric InfoNCE with a learned temperature over unit-length projections; every caption of an
image is a positive for it, wherever in the batch (targets by image id, as ALBEF), so images with several
captions do not repel their own. Matching scores the joint encoding with the fusion model's own head: own pairs
and hard negatives, drawn here from the batch by similarity, are encoded by the trainer. A batch must share one
coalition, else negatives could be told apart by it. Where several processes share a batch, each contrasts its rows
with all rows, and negatives are drawn from all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base import Alone, Answer, Example, Objective, Pair, States, Stream, Whole
from tasks.heads import Projection
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
        match_share: share of a batch's examples that matching trains on, drawn anew each time: the joint encodings
            of matching cost more than contrast does.
    """

    kind = "retrieval"
    streams = ("image", "text")
    empty = "skip"
    scoring = "gallery"
    scope = "batch"

    def __init__(
        self,
        *,
        task: str,
        width: int,
        shared: int = 256,
        temperature: float = 0.07,
        match_weight: float = 1.0,
        negatives: Literal["both", "alternate"] = "both",
        match_share: float = 1.0,
    ) -> None:
        super().__init__(task=task, width=width)
        self.settings: dict[str, object] = {
            "shared": shared,
            "temperature": temperature,
            "match_weight": match_weight,
            "negatives": negatives,
            "match_share": match_share,
        }
        self.match_weight = match_weight
        self.match_share = match_share
        self.negatives = negatives
        self.image_projection = Projection(width=width, shared=shared)
        self.text_projection = Projection(width=width, shared=shared)
        self.log_scale = nn.Parameter(torch.tensor(log(1 / temperature)))

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

    def loss(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Contrast."""
        return self.loss_of_rows(states, Alone(examples))

    def loss_of_rows(self, states: Mapping[Stream, States], whole: Whole) -> Float[Tensor, ""]:
        """Contrast of the rows that are here with all rows."""
        images, texts = self._embedded(states)
        every_image, every_text = whole.gather(images), whole.gather(texts)
        rows = torch.tensor(list(whole.rows), device=images.device)
        belongs = own_mask(whole.examples).to(images.device)[rows]
        by_image = soft_cross_entropy(images @ every_text.T * self.scale, belongs)
        by_text = soft_cross_entropy(texts @ every_image.T * self.scale, belongs)
        return (by_image + by_text) / 2

    def match_loss(self, logits: Float[Tensor, " p"], pairs: Sequence[Pair]) -> Float[Tensor, ""]:
        """These pairs' share of matching, by binary cross-entropy."""
        labels = torch.tensor([float(pair.label) for pair in pairs], device=logits.device)
        weights = torch.tensor([pair.weight for pair in pairs], device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
        return (weights * losses).sum()

    @torch.no_grad()
    def pairs(
        self, states: Mapping[Stream, States], whole: Whole, *, generator: torch.Generator | None = None
    ) -> list[Pair]:
        """Own pairs, then negatives: for a text an image that is not its own, for an image a text likewise.

        Own pairs and negatives each make up half of matching, for `match_share` of the examples. Negatives are drawn in
        proportion to the softmax of the scaled similarity with a (CPU) generator, the hardest without one. A row whose
        batch holds only its own image has no negative. None at all are drawn when matching has no weight.
        """
        if self.match_weight == 0:
            return []
        images, texts = self._embedded(states)
        similarity = whole.gather(images) @ whole.gather(texts).T
        examples = whole.examples
        scores = (similarity * self.scale).float().cpu().masked_fill(own_mask(examples), -torch.inf)
        taken = self._taken(len(examples), generator)
        drawn: list[tuple[int, int]] = []
        for place, (row, image, text) in enumerate(
            zip(taken, _draw(scores.T[taken], generator), _draw(scores[taken], generator), strict=True)
        ):
            if image is not None and (self.negatives == "both" or place % 2 == 0):
                drawn.append((row, image))
            if text is not None and (self.negatives == "both" or place % 2 == 1):
                drawn.append((text, row))
        half = 0.5 * self.match_weight
        own = [Pair(row, row, label=1, weight=half / len(taken)) for row in taken]
        return own + [Pair(text, image, label=0, weight=half / len(drawn)) for text, image in drawn]

    def _taken(self, size: int, generator: torch.Generator | None) -> list[int]:
        """The examples that matching trains on: `match_share` of them, the first ones without a generator."""
        if self.match_share == 1:
            return list(range(size))
        order = torch.arange(size) if generator is None else torch.randperm(size, generator=generator)
        taken: list[int] = order[: max(1, round(self.match_share * size))].tolist()
        return taken

    @torch.no_grad()
    def answers(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> list[Answer]:
        """Contrast answers with these examples as the whole gallery; a split is evaluated through
        `retrieval_answers`.
        """
        gallery = Gallery.of(examples)
        first = [columns[0] for columns in gallery.own_captions()]
        images, texts = self._embedded(states)
        similarity = (images @ texts.T).float()[first]
        return retrieval_answers(similarity, examples, scale=self.scale.item())

    def describe(self) -> dict[str, object]:
        return {"kind": self.kind, "task": self.task, "width": self.width, **self.settings}

    def _embedded(self, states: Mapping[Stream, States]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        return self.embed_images(states["image"].pooled), self.embed_texts(states["text"].pooled)


def own_mask(examples: Sequence[Example]) -> Bool[Tensor, "b b"]:
    """Which captions (columns) belong to which examples' images (rows)."""
    owner = Gallery.of(examples).owner
    return owner[:, None] == owner[None]


def soft_cross_entropy(logits: Float[Tensor, "b c"], belongs: Bool[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Mean cross-entropy against targets spread evenly over each row's positives."""
    weights = belongs.float()
    shares = weights / weights.sum(1, keepdim=True)
    return -(shares * logits.float().log_softmax(1)).sum(1).mean()


def _draw(scores: Float[Tensor, "t b"], generator: torch.Generator | None) -> list[int | None]:
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
