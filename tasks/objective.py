"""What an objective is: head and loss of a task, handed states of the fusion model, handing on losses and answers.

`tasks.base` documents the training step and the evaluation that use it, and hands these names on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tasks.examples import Answer, Example

Stream = Literal["joint", "text", "image"]


@runtime_checkable
class States(Protocol):
    """What an objective needs of encoded inputs: `pooled`, of K branches that heads treat alike (see `tasks.heads`)."""

    @property
    def pooled(self) -> Float[Tensor, "b k w"]: ...


class Pair(NamedTuple):
    """Row `text` of the batch's texts with row `image` of its images; label 1 if they belong together.

    `weight` is the share of the batch's loss that the pair makes.
    """

    text: int
    image: int
    label: int
    weight: float


@runtime_checkable
class Whole(Protocol):
    """A batch of which this process may have some rows only.

    Attributes:
        examples: of all rows, in order; every process knows them.
        rows: which of them are here, in order.
    """

    @property
    def examples(self) -> Sequence[Example]: ...

    @property
    def rows(self) -> Sequence[int]: ...

    def gather(self, own: Float[Tensor, "b d"]) -> Float[Tensor, "whole d"]:
        """Returns what all processes have, by row; gradients find back to where a row came from."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A batch that is here as a whole."""

    examples: Sequence[Example]

    @property
    def rows(self) -> Sequence[int]:
        return range(len(self.examples))

    def gather(self, own: Float[Tensor, "b d"]) -> Float[Tensor, "whole d"]:
        return own


class Objective(nn.Module, ABC):
    """Head and loss of a task; see the top of `tasks.base` for how a step and an evaluation use it.

    Attributes:
        streams: the encodings that `loss` and `answers` look up in `states`.
        empty: whether the objective can train on the coalition without encoders.
        scoring: whether answers come batch by batch or from the whole gallery.
        scope: whether an example's loss depends on the example alone, or on the batch that it is in, as in
            contrast; such a batch shares one coalition and is not put together by the length of texts.
    """

    kind: ClassVar[str]
    streams: ClassVar[tuple[Stream, ...]] = ("joint",)
    empty: ClassVar[Literal["train", "skip"]] = "train"
    scoring: ClassVar[Literal["answers", "gallery"]] = "answers"
    scope: ClassVar[Literal["example", "batch"]] = "example"

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

    def loss_of_rows(self, states: Mapping[Stream, States], whole: Whole) -> Float[Tensor, ""]:
        """`loss` where other processes have the other rows: a mean over the rows that are here."""
        return self.loss(states, [whole.examples[row] for row in whole.rows])

    def counted(self, examples: Sequence[Example]) -> int:
        """How many of the examples `loss` is a mean over; by these the parts of a batch are weighted."""
        return len(examples)

    def pairs(
        self, states: Mapping[Stream, States], whole: Whole, *, generator: torch.Generator | None = None
    ) -> list[Pair]:
        """Pairs across the whole batch that are to be encoded jointly; none unless the objective matches.

        They are the same in every process.
        """
        return []

    def match_loss(self, logits: Float[Tensor, " p"], pairs: Sequence[Pair]) -> Float[Tensor, ""]:
        """Second part of the loss: these pairs' share, from the model's logits of fit."""
        return logits.new_zeros(())

    def forward(self, states: Mapping[Stream, States], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """`loss`, so that a wrapper for several processes sees an ordinary module."""
        return self.loss(states, examples)
