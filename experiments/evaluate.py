"""Answers of a trained model: one cell per task and coalition, and the controls beside them.

Handed a `TaskModel`, data and features; hands on `Answer`s, attention rows and re-ranked retrieval. Nothing here
computes a metric beyond what the task itself defines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from experiments.bank import FeatureBank
from experiments.cells import Removal
from experiments.data import Part, TaskData
from experiments.memory import fits
from experiments.model import TaskModel
from experiments.processes import ALONE, Processes
from experiments.training.settings import Precision
from fusion.types import Coalition, Encoded, FeatureMap
from fusion.ve_dropout import VEDropout
from tasks.base import Answer, Example, Stream
from tasks.contrast import RetrievalObjective
from tasks.objectives import ScoredObjective
from tasks.retrieval_answers import Gallery, rerank, retrieval_answers, shortlist

Result = TypeVar("Result")
Seen = Callable[[Sequence[str], Coalition], tuple[FeatureMap, Coalition]]


class Evaluator:
    """Evaluates one model on one task's split; the text half of a gallery is encoded once for all coalitions.

    The trunk runs in `precision`, the heads always in float32: probabilities keep their digits. `processes` share the
    batches, and all of them get all answers; which batches there are does not depend on how many share them.
    `fills` are what can stand in for absent encoders, by the name of the removal; without one, nothing does.
    """

    def __init__(
        self,
        model: TaskModel,
        bank: FeatureBank,
        data: TaskData,
        part: Part,
        *,
        batch_size: int,
        precision: Precision = "no",
        limit: int | None = None,
        processes: Processes = ALONE,
        fills: Mapping[str, VEDropout] | None = None,
    ) -> None:
        self.model = model
        self.bank = bank
        self.task = data.task.name
        self.examples = data.splits[part].examples[:limit]
        self.batch_size = batch_size
        assert precision != "auto", "checks.check settles it"
        self.precision = precision
        self.device = model.fusion.device
        self.processes = processes
        self._fills = dict(fills or {})
        self._texts: Tensor | None = None
        model.eval()

    def answers(
        self, coalition: Coalition, *, shuffled: bool = False, removal: Removal = "drop"
    ) -> list[Answer]:
        """Answers of a coalition.

        Args:
            shuffled: each example is shown another example's image.
            removal: what becomes of absent encoders: nothing takes their place, whatever did in training ("drop"), a
                constant of `fills` does, or the features of another example's image.
        """
        partner = derangement(self.examples) if shuffled else {}
        objective = self.model.objective(self.task)
        if isinstance(objective, (RetrievalObjective, ScoredObjective)):
            return self.answers_of(self.scores(coalition, partner=partner, removal=removal))
        order, batches = self._batches(objective.answers, coalition, self._seen(partner, removal), removal)
        found = [answer for batch in batches for answer in batch]
        return [answer for _, answer in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def answers_of(self, scores: Tensor) -> list[Answer]:
        """What scores answer, of one model or averaged."""
        objective = self.model.objective(self.task)
        if isinstance(objective, RetrievalObjective):
            return retrieval_answers(scores, self.examples, scale=1.0)
        assert isinstance(objective, ScoredObjective)
        return objective.answers_of(scores, self.examples)

    @torch.no_grad()
    def scores(
        self, coalition: Coalition, *, partner: Mapping[str, str] | None = None, removal: Removal = "drop"
    ) -> Tensor:
        """Score of each answer for each example; in a gallery, of each caption (columns) for each image."""
        objective = self.model.objective(self.task)
        seen = self._seen(partner or {}, removal)
        with self._standing_in(removal):
            if isinstance(objective, RetrievalObjective):
                return self._similarity(objective, coalition, seen) * objective.scale.item()
        assert isinstance(objective, ScoredObjective)
        order, found = self._batches(lambda states, _: objective.logits(states), coalition, seen, removal)
        scores = torch.cat(found)  # whole batches: a row of its own would travel with the batch's memory
        return torch.empty_like(scores).index_copy_(0, torch.tensor(order), scores)

    @torch.no_grad()
    def _batches(
        self,
        head: Callable[[dict[Stream, Encoded], list[Example]], Result],
        coalition: Coalition,
        seen: Seen,
        removal: Removal,
    ) -> tuple[list[int], list[Result]]:
        """What the head gives for each batch, and the places of the batches' examples, one after another.

        Texts of like length share a batch, so that little is padded.
        """
        objective = self.model.objective(self.task)
        order = sorted(range(len(self.examples)), key=lambda k: len(self.examples[k].text.split()))

        def of(part: slice) -> Result:
            batch = [self.examples[k] for k in order[part]]
            features, given = seen([example.image for example in batch], coalition)
            with self._autocast():
                states = self.model.encode(objective, batch, features, given)
            return head({stream: in_float32(found) for stream, found in states.items()}, batch)

        with self._standing_in(removal):
            return order, self._map(of, self._parts(len(order)))

    def _similarity(self, objective: RetrievalObjective, coalition: Coalition, seen: Seen) -> Tensor:
        """Cosines of every image with every caption of the split."""
        images = Gallery.of(self.examples).images

        def embed_texts(part: slice) -> Tensor:
            with self._autocast():
                encoded = self.model.fusion.encode([e.text for e in self.examples[part]], None, ())
            return objective.embed_texts(in_float32(encoded).pooled).cpu()

        def embed_images(part: slice) -> Tensor:
            features, given = seen(images[part], coalition)
            return objective.embed_images(self._fuse(None, features, given).pooled).cpu()

        if self._texts is None:
            self._texts = torch.cat(self._map(embed_texts, self._parts(len(self.examples)))).to(self.device)
        embedded = torch.cat(self._map(embed_images, self._parts(len(images)))).to(self.device)
        return (embedded @ self._texts.T).cpu()

    def _seen(self, partner: Mapping[str, str], removal: Removal) -> Seen:
        """How to get what the model is shown of some images: features, and the encoders that are present in them."""
        other = derangement(self.examples) if removal == "permuted" else {}

        def seen(images: Sequence[str], coalition: Coalition) -> tuple[FeatureMap, Coalition]:
            shown = [partner.get(image, image) for image in images]
            features = self.bank.features(self.task, shown, coalition, self.device)
            if removal != "permuted":
                return features, coalition
            absent = [alias for alias in self.bank.aliases if alias not in coalition]
            features |= self.bank.features(self.task, [other[image] for image in shown], absent, self.device)
            return {alias: features[alias] for alias in self.bank.aliases}, self.bank.aliases

        return seen

    @contextmanager
    def _standing_in(self, removal: Removal) -> Iterator[None]:
        """Lets the fill of this name stand in for absent encoders, or nothing, whatever did in training."""
        before = self.model.dropout
        self.model.dropout = self._fills.get(removal)
        try:
            yield
        finally:
            self.model.dropout = before

    @torch.no_grad()
    def reranked(self, coalition: Coalition, *, size: int) -> list[Answer]:
        """Retrieval with the nearest `size` items of each query re-ordered by matching."""
        similarity = self.scores(coalition)
        listed = shortlist(similarity, self.examples, size=size)
        images, pairs = Gallery.of(self.examples).images, listed.pairs()

        def match(part: slice) -> Tensor:
            shown = [images[row] for row in pairs[part, 0].tolist()]
            features = self.bank.features(self.task, shown, coalition, self.device)
            texts = [self.examples[caption].text for caption in pairs[part, 1].tolist()]
            return self.model.fusion.match_logits(self._fuse(texts, features, coalition)).cpu()

        with self._standing_in("drop"):
            logits = torch.cat(self._map(match, self._parts(len(pairs))))
        return rerank(similarity, self.examples, listed, logits)

    @torch.no_grad()
    def attention(self, coalition: Coalition, *, examples: int) -> list[dict[str, Any]]:
        """Mean attention mass of the CLS query per layer, head and span, over the first examples."""
        chosen = self.examples[:examples]

        def look(part: slice) -> tuple[Tensor, Tensor, tuple[str, ...]]:
            batch = chosen[part]
            features = self.bank.of_examples(self.task, batch, coalition, self.device)
            found = self.model.fusion.encode([e.text for e in batch], features, coalition, attention="mass").attention
            assert found is not None
            return found.mass.sum(1).cpu(), found.token_share.cpu() * len(batch), found.names

        looked = self._map(look, self._parts(len(chosen)))
        totals = torch.stack([mass for mass, _, _ in looked]).sum(0) / len(chosen)
        shares = torch.stack([share for _, share, _ in looked]).sum(0) / len(chosen)
        names = looked[0][2]
        return [
            {
                "task": self.task,
                "coalition": "+".join(coalition),
                "layer": layer,
                "head": head,
                "encoder": name,
                "mass": float(totals[layer, head, k]),
                "token_share": float(shares[k]),
                "n": len(chosen),
            }
            for layer in range(totals.shape[0])
            for head in range(totals.shape[1])
            for k, name in enumerate(names)
        ]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _fuse(self, texts: Sequence[str] | None, features: FeatureMap, coalition: Coalition) -> Encoded:
        with self._autocast():
            encoded = self.model.fuse(texts, features, coalition)
        return in_float32(encoded)

    def _map(self, work: Callable[[slice], Result], parts: Sequence[slice]) -> list[Result]:
        """Results of batches, shared by the processes."""
        half = self.batch_size // 2
        remedy = f"evaluate.batch_size={half} takes half" if half else "a smaller fusion takes less"
        with fits(f"a batch of {self.batch_size} in evaluation", remedy):
            return self.processes.map(work, parts)

    def _parts(self, count: int) -> list[slice]:
        """The batches of so many items."""
        return [slice(start, start + self.batch_size) for start in range(0, count, self.batch_size)]


def in_float32(encoded: Encoded) -> Encoded:
    """The stream with its states in float32."""
    return replace(encoded, states=encoded.states.float(), pooled=encoded.pooled.float())


def derangement(examples: Sequence[Example]) -> dict[str, str]:
    """Each image's stand-in: a fixed random cycle through the images, so that none keeps its own place."""
    images = list(dict.fromkeys(example.image for example in examples))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    return {images[a]: images[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
