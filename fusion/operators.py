"""What a fusion operator is: streams of text and of the encoders present in, one encoded stream out.

Handed embedded text and adapted tokens by the model, hands on `Encoded`. Operators are found by name in
`fusion.OPERATORS`; a new one is a subclass in its own file and a line in that table, and the model stays as
it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion import OPERATORS
from fusion.errors import FusionError, choices
from fusion.trunk import TextTrunk
from fusion.types import Encoded

Attention = Literal["none", "mass"]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Tokens of the fusion width and which of them are real."""

    states: Float[Tensor, "b n w"]
    valid: Bool[Tensor, "b n"]


class FusionOperator(nn.Module, ABC):
    """Fuses text with any number of encoders, unequal grids and any coalition.

    A subclass is built with the text trunk to start from, the run's aliases and the dropout, and documents
    what "absent" means in it. What it cannot honour it refuses when built.
    """

    attentions: ClassVar[tuple[Attention, ...]] = ("none",)
    """What `attention` may be."""

    @abstractmethod
    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], dropout: float) -> None:
        super().__init__()

    @property
    @abstractmethod
    def num_branches(self) -> int:
        """k of the pooled state."""

    @abstractmethod
    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Fuses the streams.

        Args:
            lead: CLS first, then the text's tokens; CLS alone for an image-only stream.
            visual: the encoders present, in the run's order; may be empty.
            attention: "mass" adds the CLS query's attention mass.
        """


def operator_class(name: str) -> type[FusionOperator]:
    """Returns the operator of that name.

    Raises:
        FusionError: there is none.
    """
    if name not in OPERATORS:
        raise FusionError(f"unknown fusion operator {name!r}; {choices(name, OPERATORS)}")
    module, _, attribute = OPERATORS[name].partition(":")
    found: type[FusionOperator] = getattr(import_module(module), attribute)
    return found
