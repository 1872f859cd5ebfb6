"""What a fusion operator is: streams of text and of the encoders present in, one encoded stream out.

Handed embedded text and adapted tokens by the model, hands on `Encoded`. Operators are found by name in
`fusion.OPERATORS`; a new one is a subclass in its own file, a line in that table and one in `fusion.OPTIONS`,
and the model stays as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion import OPERATORS
from fusion.config import FusionConfig
from fusion.errors import FusionError, choices
from fusion.reading import Reading
from fusion.transformer import Block, Trunk
from fusion.trunk import TextTrunk
from fusion.types import Encoded

Attention = Literal["none", "mass"]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Tokens of the fusion width.

    Attributes:
        states: of each token.
        valid: which of them are real.
        boxes: what visual tokens saw; 0 for those that are not valid.
        done: layers of the trunk that the states have passed already; only for text on its own.
    """

    states: Float[Tensor, "b n w"]
    valid: Bool[Tensor, "b n"]
    boxes: Float[Tensor, "b n 4"] | None = None
    done: int = 0


GRAPHS = 32
"""Compiled forms of a layer: training or not, a mask or none, precision, mass asked for. PyTorch gives up after 8."""
COMPILED: Mapping[type[nn.Module], tuple[str, ...]] = {Block: ("attend", "feed"), Reading: ("forward",)}
"""What of a layer is compiled: of blocks the halves, which some operators call one by one."""


class FusionOperator(nn.Module, ABC):
    """Fuses text with any number of encoders, unequal grids and any coalition.

    What it cannot honour it refuses when built.

    Args:
        trunk: text model to start from.
        aliases: the run's encoders, in the run's order.
        config: the settings; options that are None mean the operator's own default.
        seed: of what belongs to one encoder alone, which must not depend on the encoders' order.
    """

    absent: ClassVar[str]
    """What it means for an encoder to be absent."""

    attentions: ClassVar[tuple[Attention, ...]] = ("none", "mass")
    """What `attention` may be."""

    @abstractmethod
    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__()

    def trunks(self) -> list[Trunk]:
        """Returns all trunks, that of the text first."""
        return [module for module in self.modules() if isinstance(module, Trunk)]

    def compile_layers(self) -> None:
        """Compiles the layers: all blocks and all readings.

        The compiler's settings are others while these run, and there alone. It keeps `GRAPHS` forms. And it does not
        cut graphs at the buckets of `DistributedDataParallel`: that serves models compiled whole, whose gradients
        would otherwise all be there at once, at the end of the backward pass. Here those of half a layer are, as soon
        as it is passed, and travel while the next is computed.
        """
        limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        settings = torch._dynamo.config.patch(recompile_limit=limit, optimize_ddp=False)
        for module in self.modules():
            for name in COMPILED.get(type(module), ()):
                setattr(module, name, settings(torch.compile(getattr(module, name), dynamic=True)))

    def text_trunk(self) -> Trunk | None:
        """Returns the trunk that a stream without encoders passes; None where there are several."""
        return self.trunks()[0]

    def num_branches(self, num_present: int) -> int:
        """Returns k of the pooled state when that many encoders are present."""
        return 1

    def describe(self) -> dict[str, object]:
        """Returns the options as resolved, for the record: an alignment's name, a grid, a number of queries."""
        return {}

    @abstractmethod
    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Fuses the streams.

        Args:
            lead: CLS first, then the text's tokens; CLS alone for an image-only stream.
            visual: the encoders present, in the run's order; may be empty.
            attention: "mass" adds attention mass and the weight of each encoder.
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
