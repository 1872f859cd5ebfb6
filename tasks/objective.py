"""What an objective is: head and loss of a task, handed states of the fusion model, handing on losses and answers.

`tasks.base` documents the training step and the evaluation that use it, and hands these names on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tasks.examples import Answer, Example

Stream = Literal["joint", "text", "image"]


@runtime_checkable
class States(Protocol):
    """What an objective needs of encoded inputs: `pooled`, of K branches that heads treat alike."""

    @property
    def pooled(self) -> Float[Tensor, "b k w"]: ...


class Pair(NamedTuple):
    """Row `text` of the batch's texts with row `image` of its images; label 1 if they belong together."""

    text: int
    image: int
    label: int


class Objective(nn.Module, ABC):
    """Head and loss of a task; see the top of `tasks.base` for how a step and an evaluation use it.

    Attributes:
        streams: the encodings that `loss` and `answers` look up in `states`.
        empty: whether the objective can train on the coalition without encoders.
        scoring: whether answers come batch by batch or from the whole gallery.
    """

    kind: ClassVar[str]
    streams: ClassVar[tuple[Stream, ...]] = ("joint",)
    empty: ClassVar[Literal["train", "skip"]] = "train"
    scoring: ClassVar[Literal["answers", "gallery"]] = "answers"

    def __init__(self, *, task: str, width: int) -> None:
        super().__init__()
        self.task = task
        self.width = width

    @abstractmethod
    def loss(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Scalar loss, a mean over examples; `states[stream].pooled` is b k w with b = len(examples)."""

    @abstractmethod
    def answers(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> list[Answer]:
        """Answers for the examples; gallery objectives treat them as the whole gallery and answer in both
        directions.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What `tasks.objectives.load_objective` needs to build this module again, as JSON-ready values."""

    def pairs(
        self,
        states: Mapping[Stream, States],
        examples: Sequence[Example],
        *,
        generator: torch.Generator | None = None,
    ) -> list[Pair]:
        """Pairs across the batch that the trainer is to encode jointly; none unless the objective matches."""
        return []

    def match_loss(self, pooled: Float[Tensor, "p k w"], labels: Int[Tensor, " p"]) -> Float[Tensor, ""]:
        """Second part of the loss, over the encoded `pairs`; zero unless the objective matches."""
        return pooled.new_zeros(())

    def forward(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """`loss`, so that a wrapper for several processes sees an ordinary module."""
        return self.loss(states, examples)
