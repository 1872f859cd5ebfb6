"""Answers of a trained model: one cell per task and coalition, and the controls beside them.

Handed a `TaskModel`, data and features; hands on `Answer`s, attention rows and re-ranked retrieval. Nothing here
computes a metric beyond what the task itself defines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.config import Precision
from experiments.data import FeatureBank, Part, TaskData
from experiments.model import TaskModel
from fusion.types import Coalition, Encoded, FeatureMap
from tasks.base import Answer, Example
from tasks.contrast import RetrievalObjective
from tasks.retrieval_answers import Gallery, rerank, retrieval_answers, shortlist


class Evaluator:
    """Evaluates one model on one task's split; the text half of a gallery is encoded once for all coalitions.

    The trunk runs in `precision`, the heads always in float32: probabilities keep their digits.
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
    ) -> None:
        self.model = model
        self.bank = bank
        self.task = data.task.name
        self.examples = data.splits[part].examples[:limit]
        self.batch_size = batch_size
        self.precision = precision
        self.device = model.fusion.device
        self._texts: Tensor | None = None
        model.eval()

    @torch.no_grad()
    def answers(self, coalition: Coalition, *, shuffled: bool = False) -> list[Answer]:
        """Answers of a coalition; `shuffled` shows each example another example's image."""
        partner = derangement(self.examples) if shuffled else {}
        objective = self.model.objective(self.task)
        if isinstance(objective, RetrievalObjective):
            similarity = self.similarity(coalition, partner=partner)
            return retrieval_answers(similarity, self.examples, scale=objective.scale.item())
        answers: list[Answer] = []
        # Texts of like length share a batch, so that little is padded; answers return in the examples' order.
        order = sorted(range(len(self.examples)), key=lambda k: len(self.examples[k].text.split()))
        for start in range(0, len(order), self.batch_size):
            batch = [self.examples[k] for k in order[start : start + self.batch_size]]
            images = [partner.get(example.image, example.image) for example in batch]
            features = self.bank.features(self.task, images, coalition, self.device)
            with self._autocast():
                states = self.model.encode(objective, batch, features, coalition)
            answers += objective.answers({stream: in_float32(found) for stream, found in states.items()}, batch)
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]

    @torch.no_grad()
    def similarity(self, coalition: Coalition, *, partner: Mapping[str, str] | None = None) -> Tensor:
        """Cosines of every image with every caption of the split."""
        objective = self.model.objective(self.task)
        assert isinstance(objective, RetrievalObjective)
        step = self.batch_size
        if self._texts is None:
            texts = [example.text for example in self.examples]
            parts = [self._encode(texts[k : k + step], None, ()).pooled for k in range(0, len(texts), step)]
            self._texts = torch.cat([objective.embed_texts(pooled) for pooled in parts])
        images = [(partner or {}).get(image, image) for image in Gallery.of(self.examples).images]
        embedded = []
        for start in range(0, len(images), step):
            features = self.bank.features(self.task, images[start : start + step], coalition, self.device)
            embedded.append(objective.embed_images(self._encode(None, features, coalition).pooled))
        return (torch.cat(embedded) @ self._texts.T).cpu()

    @torch.no_grad()
    def reranked(self, coalition: Coalition, *, size: int) -> list[Answer]:
        """Retrieval with the nearest `size` items of each query re-ordered by matching."""
        objective = self.model.objective(self.task)
        assert isinstance(objective, RetrievalObjective)
        similarity = self.similarity(coalition)
        listed = shortlist(similarity, self.examples, size=size)
        images, pairs = Gallery.of(self.examples).images, listed.pairs().tolist()
        logits = []
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            features = self.bank.features(self.task, [images[i] for i, _ in batch], coalition, self.device)
            texts = [self.examples[caption].text for _, caption in batch]
            logits.append(objective.match_logits(self._encode(texts, features, coalition).pooled))
        return rerank(similarity, self.examples, listed, torch.cat(logits).cpu())

    @torch.no_grad()
    def attention(self, coalition: Coalition, *, examples: int) -> list[dict[str, Any]]:
        """Mean attention mass of the CLS query per layer, head and span, over the first examples."""
        chosen = self.examples[:examples]
        totals: Tensor | None = None
        shares: Tensor | None = None
        names: tuple[str, ...] = ()
        for start in range(0, len(chosen), self.batch_size):
            batch = chosen[start : start + self.batch_size]
            features = self.bank.of_examples(self.task, batch, coalition, self.device)
            found = self.model.fusion.encode([e.text for e in batch], features, coalition, attention="mass").attention
            assert found is not None
            mass, share, names = found.mass.sum(1).cpu(), found.token_share.cpu() * len(batch), found.names
            totals = mass if totals is None else totals + mass
            shares = share if shares is None else shares + share
        assert totals is not None and shares is not None
        totals, shares = totals / len(chosen), shares / len(chosen)
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

    def _encode(self, texts: Sequence[str] | None, features: FeatureMap | None, coalition: Coalition) -> Encoded:
        with self._autocast():
            encoded = self.model.fusion.encode(texts, features, coalition)
        return in_float32(encoded)


def in_float32(encoded: Encoded) -> Encoded:
    """The stream with its states in float32."""
    return replace(encoded, states=encoded.states.float(), pooled=encoded.pooled.float())


def derangement(examples: Sequence[Example]) -> dict[str, str]:
    """Each image's stand-in: a fixed random cycle through the images, so that none keeps its own place."""
    images = list(dict.fromkeys(example.image for example in examples))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    return {images[a]: images[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
