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

from experiments.data import FeatureBank, Part, TaskData
from experiments.model import Removal, TaskModel
from experiments.processes import ALONE, Processes
from experiments.training.settings import Precision
from fusion.types import Coalition, Encoded, FeatureMap
from tasks.base import Answer, Example
from tasks.contrast import RetrievalObjective
from tasks.retrieval_answers import Gallery, rerank, retrieval_answers, shortlist


class Evaluator:
    """Evaluates one model on one task's split; the text half of a gallery is encoded once for all coalitions.

    The trunk runs in `precision`, the heads always in float32: probabilities keep their digits. `processes` share the
    batches, and all of them get all answers; which batches there are does not depend on how many share them.
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
        removal: Removal = "drop",
    ) -> None:
        self.model = model
        self.bank = bank
        self.task = data.task.name
        self.examples = data.splits[part].examples[:limit]
        self.batch_size = batch_size
        self.precision = precision
        self.device = model.fusion.device
        self.processes, self.removal = processes, removal
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
        # Texts of like length share a batch, so that little is padded; answers return in the examples' order.
        order = sorted(range(len(self.examples)), key=lambda k: len(self.examples[k].text.split()))

        def answer(part: slice) -> list[Answer]:
            batch = [self.examples[k] for k in order[part]]
            images = [partner.get(example.image, example.image) for example in batch]
            features = self.bank.features(self.task, images, coalition, self.device)
            with self._autocast():
                states = self.model.encode(objective, batch, features, coalition, removal=self.removal)
            return objective.answers({stream: in_float32(found) for stream, found in states.items()}, batch)

        answers = [one for part in self.processes.map(answer, self._parts(len(order))) for one in part]
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]

    @torch.no_grad()
    def similarity(self, coalition: Coalition, *, partner: Mapping[str, str] | None = None) -> Tensor:
        """Cosines of every image with every caption of the split."""
        objective = self.model.objective(self.task)
        assert isinstance(objective, RetrievalObjective)
        images = [(partner or {}).get(image, image) for image in Gallery.of(self.examples).images]

        def embed_texts(part: slice) -> Tensor:
            with self._autocast():
                encoded = self.model.fusion.encode([e.text for e in self.examples[part]], None, ())
            return objective.embed_texts(in_float32(encoded).pooled).cpu()

        def embed_images(part: slice) -> Tensor:
            features = self.bank.features(self.task, images[part], coalition, self.device)
            return objective.embed_images(self._fuse(None, features, coalition).pooled).cpu()

        if self._texts is None:
            self._texts = torch.cat(self.processes.map(embed_texts, self._parts(len(self.examples)))).to(self.device)
        embedded = torch.cat(self.processes.map(embed_images, self._parts(len(images)))).to(self.device)
        return (embedded @ self._texts.T).cpu()

    @torch.no_grad()
    def reranked(self, coalition: Coalition, *, size: int) -> list[Answer]:
        """Retrieval with the nearest `size` items of each query re-ordered by matching."""
        similarity = self.similarity(coalition)
        listed = shortlist(similarity, self.examples, size=size)
        images, pairs = Gallery.of(self.examples).images, listed.pairs().tolist()

        def match(part: slice) -> Tensor:
            features = self.bank.features(self.task, [images[i] for i, _ in pairs[part]], coalition, self.device)
            texts = [self.examples[caption].text for _, caption in pairs[part]]
            return self.model.fusion.match_logits(self._fuse(texts, features, coalition)).cpu()

        logits = torch.cat(self.processes.map(match, self._parts(len(pairs))))
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

        looked = self.processes.map(look, self._parts(len(chosen)))
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
            encoded = self.model.fuse(texts, features, coalition, removal=self.removal)
        return in_float32(encoded)

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
