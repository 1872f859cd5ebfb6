"""What crosses the fusion room's borders: features of encoders on the way in, encoded streams on the way out.

Handed tokens, boxes and names by the caller; these types add no computation beyond moving and selecting rows.
The analysis room imports this file and nothing else of `fusion`. Axis letters: b batch, n tokens of one
encoder, l tokens of the fused sequence, d an encoder's width, w the fusion width, h heads, e spans present, k
branches of an operator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusion.errors import FusionError, choices

Query = Literal["cls", "latents", "cells"]

Coalition = tuple[str, ...]
"""Aliases of the encoders present, in the run's order; () is text only."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Tokens of one encoder for a batch of images.

    Attributes:
        tokens: as the encoder gave them.
        boxes: cx cy w h of what each token saw, in 0-1 of the image; a prefix token has the whole image, .5
            .5 1 1.
        valid: which tokens are real; the others (padding) have no influence, whatever they hold.
    """

    tokens: Float[Tensor, "b n d"]
    boxes: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"]

    def to(self, device: torch.device | str) -> "Features":
        """Returns the same features on another device; what is `pinned` is on its way to a GPU when this returns."""
        ahead = torch.device(device).type == "cuda"
        return Features(*(part.to(device, non_blocking=ahead) for part in (self.tokens, self.boxes, self.valid)))

    def pinned(self) -> "Features":
        """Returns the same features in memory from which a GPU copies by itself.

        What the images of a batch share (a store's boxes) is laid out for each of them: pinned memory has the strides
        of what it is a copy of, and nothing can be copied into a tensor whose elements share a place.
        """
        return Features(*(part.contiguous().pin_memory() for part in (self.tokens, self.boxes, self.valid)))

    def rows(self, index: slice | Tensor) -> "Features":
        """Returns the chosen rows of the batch: a slice, or a tensor of indices or booleans."""
        return Features(self.tokens[index], self.boxes[index], self.valid[index])


FeatureMap = Mapping[str, Features]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMass:
    """Where the asked queries look.

    Attributes:
        mass: share of the queries' attention that each span receives; sums to 1 over e.
        names: the spans of axis e. Where the CLS query looks at everything: "cls", "text" where there is text,
            then the encoders present; where an operator reads the encoders alone, these.
        token_share: share of the valid tokens that each span holds, averaged over the batch; mass /
            token_share is lift.
        query: whose attention it is: that of "cls", or the mean over an operator's "latents" or "cells".
    """

    mass: Float[Tensor, "layers b h e"]
    names: tuple[str, ...]
    token_share: Float[Tensor, " e"]
    query: Query = "cls"


@dataclass(frozen=True, slots=True, eq=False)
class EncoderWeight:
    """How much an operator takes of each encoder, example by example. It describes, and attributes nothing.

    Attributes:
        values: at least 0, and sum to 1 over the encoders present.
        names: the encoders present.
        kind: what it is: a share of the attention that falls on encoders, a learned gate, a share of the
            length of what is summed, or an equal share by construction.
    """

    values: Float[Tensor, "b e"]
    names: tuple[str, ...]
    kind: Literal["attention", "gate", "norm", "equal"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A fused stream.

    Attributes:
        states: of every token after the last layer; those not `valid` are meaningless.
        valid: which tokens are real.
        spans: whose tokens they are: "cls", "text" (its [SEP] included; absent without text), then aliases.
            Tokens in which an operator has mixed encoders belong to the coalition, "clip+dino".
        pooled: what heads read; k > 1 where an operator keeps branches apart. Heads average what they make of the
            branches, but for those that are all zeros: these do not count in that example.
        attention: only when asked for.
        weight: of each encoder; only when attention is asked for.
    """

    states: Float[Tensor, "b l w"]
    valid: Bool[Tensor, "b l"]
    spans: dict[str, slice]
    pooled: Float[Tensor, "b k w"]
    attention: AttentionMass | None = None
    weight: EncoderWeight | None = None


def coalition_name(coalition: Sequence[str]) -> str:
    """Returns "clip+dino" for ("clip", "dino"), and "" for the empty coalition."""
    return "+".join(coalition)


def all_coalitions(aliases: Sequence[str]) -> list[Coalition]:
    """Returns all 2^n coalitions of n encoders: by size, the empty one first, then in the run's order."""
    return [chosen for size in range(len(aliases) + 1) for chosen in combinations(aliases, size)]


def check_coalition(coalition: Sequence[str], aliases: Sequence[str]) -> Coalition:
    """Returns the coalition as a tuple.

    Args:
        coalition: aliases to be present.
        aliases: all encoders of the run, in the run's order.

    Raises:
        FusionError: an alias is unknown or repeated, or the order is not the run's.
    """
    if isinstance(coalition, str):
        raise FusionError(f"coalition {coalition!r} is a string; give a tuple of aliases, ({coalition!r},)")
    for alias in coalition:
        if alias not in aliases:
            raise FusionError(
                f"unknown encoder {alias!r} in coalition {coalition_name(coalition)!r}; "
                f"{choices(alias, aliases)}"
            )
    ordered = tuple(alias for alias in aliases if alias in coalition)
    if tuple(coalition) != ordered:
        raise FusionError(
            f"coalition {coalition_name(coalition)!r} repeats an encoder or is not in the run's order; "
            f"the nearest valid one is {coalition_name(ordered)!r}"
        )
    return ordered
