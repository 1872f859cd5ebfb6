"""The objectives: soft-target answers (VQAv2), one label of several (GQA, SNLI-VE, Hateful Memes), image-text
retrieval.

Handed pooled states and examples; hand on losses and answers through the interface at the top of
`tasks.base`. Each describes itself as JSON-ready values, from which `load_objective` builds it again to
receive a saved state dict.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import log
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tasks.base import Answer, Example, Objective, States, Stream
from tasks.contrast import RetrievalObjective
from tasks.errors import TaskError
from tasks.examples import Credit, exact
from tasks.heads import MlpHead
from tasks.soft_answers import answer_score, answer_targets, raw_answers
from tasks.vocabulary import Vocabulary

__all__ = [
    "ClassificationObjective",
    "Objective",
    "RetrievalObjective",
    "ScoredObjective",
    "SoftTargetObjective",
    "load_objective",
    "raw_answers",
]


def load_objective(description: Mapping[str, object]) -> Objective:
    """A fresh objective from what `describe()` returned; load its state dict afterwards.

    Raises:
        TaskError: the description is of no known kind, or does not fit its kind.
    """
    kinds = {kind.kind: kind for kind in (SoftTargetObjective, ClassificationObjective, RetrievalObjective)}
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in description.items()
        if key != "kind"
    }
    if description.get("kind") not in kinds:
        raise TaskError(f"unknown objective kind {description.get('kind')!r}: kinds are {', '.join(kinds)}")
    try:
        built: Objective = kinds[str(description["kind"])](**settings)  # type: ignore[arg-type]
    except TypeError as error:
        raise TaskError(
            f"objective description does not fit kind {description['kind']!r}: {error}"
        ) from error
    return built


class ScoredObjective(Objective):
    """An objective whose head gives each possible answer a score, so that several models can be averaged."""

    head: MlpHead

    def logits(self, states: Mapping[Stream, States]) -> Float[Tensor, "b c"]:
        """Score of each answer, in float32 on the CPU."""
        found: Tensor = self.head(states["joint"].pooled).float().cpu()
        return found

    @abstractmethod
    def averaged(self, logits: Sequence[Float[Tensor, "b c"]]) -> Float[Tensor, "b c"]:
        """Logits of the mean probability of several models."""

    @abstractmethod
    def answers_of(self, logits: Float[Tensor, "b c"], examples: Sequence[Example]) -> list[Answer]:
        """What these scores answer."""

    @torch.no_grad()
    def answers(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> list[Answer]:
        return self.answers_of(self.logits(states), examples)


@final
class SoftTargetObjective(ScoredObjective):
    """VQAv2: binary cross-entropy of every answer against its soft target, summed over answers, averaged over
    examples.

    Examples carry raw annotator answers as a tuple, or weights (`tasks.soft_answers`). An example without an
    answer in the vocabulary pushes all answers down.

    Args:
        vocabulary: the answers that can be given.
        prior: mean soft target of each answer in training, where the head's biases start; not needed to
            reload.
    """

    kind = "soft_target"

    def __init__(
        self, *, task: str, width: int, vocabulary: Sequence[str], prior: Float[Tensor, " c"] | None = None
    ) -> None:
        super().__init__(task=task, width=width)
        self.vocabulary = Vocabulary(tuple(vocabulary))
        self.head = MlpHead(width=width, num_outputs=len(self.vocabulary))
        if prior is not None:
            self.head.start_from(prior.clamp(1e-4, 1 - 1e-4).logit())

    def targets(self, examples: Sequence[Example]) -> Float[Tensor, "b c"]:
        """Soft targets by the documented rule."""
        targets = torch.zeros(len(examples), len(self.vocabulary))
        for row, example in enumerate(examples):
            for column, value in answer_targets(example, self.vocabulary).items():
                targets[row, column] = value
        return targets

    def loss(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        logits = self.head(states["joint"].pooled).float()
        targets = self.targets(examples).to(logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(1, len(examples))

    def averaged(self, logits: Sequence[Float[Tensor, "b c"]]) -> Float[Tensor, "b c"]:
        """Each answer's probability is its sigmoid."""
        return torch.stack([one.sigmoid() for one in logits]).mean(0).logit(eps=1e-7)

    def answers_of(self, logits: Float[Tensor, "b c"], examples: Sequence[Example]) -> list[Answer]:
        """Probability is the sigmoid of the prediction; logprob is that of the softmax over answers, of the
        consensus.
        """
        best, logprobs = logits.argmax(-1).tolist(), logits.log_softmax(-1)
        answers = []
        for row, (example, column) in enumerate(zip(examples, best, strict=True)):
            prediction = self.vocabulary.answers[column]
            consensus = str(example.extra.get("consensus", ""))
            known = None if example.target is None else self.vocabulary.index.get(consensus)
            answers.append(
                Answer(
                    id=example.id,
                    image=example.image,
                    direction="",
                    prediction=prediction,
                    target=consensus,
                    score=answer_score(prediction, example),
                    probability=float(logits[row, column].sigmoid()),
                    logprob=None if known is None else float(logprobs[row, known]),
                    rank=None,
                    slices=example.slices,
                )
            )
        return answers

    def describe(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "task": self.task,
            "width": self.width,
            "vocabulary": list(self.vocabulary.answers),
        }


@final
class ClassificationObjective(ScoredObjective):
    """One label of several by cross-entropy.

    A target outside the labels adds no loss.

    Args:
        labels: the classes.
        score: "share", or "set" where the metric is of the whole set: then score is None and the probability
            is of the last label (hateful_memes: P("1")).
        prior: frequency of each label in training, where the head's biases start; not needed to reload.
        credit: what a label scores, given the target; 1 where they are equal.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        task: str,
        width: int,
        labels: Sequence[str],
        score: Literal["share", "set"] = "share",
        prior: Float[Tensor, " c"] | None = None,
        credit: Credit = exact,
    ) -> None:
        super().__init__(task=task, width=width)
        self.credit = credit
        self.labels = Vocabulary(tuple(labels))
        self.score: Literal["share", "set"] = score
        self.head = MlpHead(width=width, num_outputs=len(self.labels))
        if prior is not None:
            self.head.start_from(prior.clamp_min(1e-5).log())

    def targets(self, examples: Sequence[Example]) -> Int[Tensor, " b"]:
        """Class indices, -100 for a target outside the labels."""
        return torch.tensor(
            [self.labels.index.get(str(example.target), -100) for example in examples], dtype=torch.long
        )

    def loss(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        logits = self.head(states["joint"].pooled).float()
        targets = self.targets(examples).to(logits.device)
        total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        return total / (targets >= 0).sum().clamp_min(1)

    def counted(self, examples: Sequence[Example]) -> int:
        return int((self.targets(examples) >= 0).sum())

    def averaged(self, logits: Sequence[Float[Tensor, "b c"]]) -> Float[Tensor, "b c"]:
        """The answers' probabilities are their softmax."""
        return torch.stack([one.log_softmax(-1) for one in logits]).logsumexp(0) - log(len(logits))

    def answers_of(self, logits: Float[Tensor, "b c"], examples: Sequence[Example]) -> list[Answer]:
        logprobs = logits.log_softmax(-1)
        best = logprobs.argmax(-1).tolist()
        answers = []
        for row, (example, column) in enumerate(zip(examples, best, strict=True)):
            prediction = self.labels.answers[column]
            known = self.labels.index.get(str(example.target))
            shown = column if self.score == "share" else len(self.labels) - 1
            scored = self.score == "share" and example.target is not None
            answers.append(
                Answer(
                    id=example.id,
                    image=example.image,
                    direction="",
                    prediction=prediction,
                    target="" if example.target is None else str(example.target),
                    score=self.credit(prediction, str(example.target)) if scored else None,
                    probability=float(logprobs[row, shown].exp()),
                    logprob=None if known is None else float(logprobs[row, known]),
                    rank=None,
                    slices=example.slices,
                )
            )
        return answers

    def describe(self) -> dict[str, object]:
        labels = list(self.labels.answers)
        return {
            "kind": self.kind,
            "task": self.task,
            "width": self.width,
            "labels": labels,
            "score": self.score,
        }
