"""A backend's forward function compiled by `torch.compile`, for encoders that ask for it (`compile=yes`).

Handed a function from pixels and layers to token grids; hands on one of the same signature. Weights stay inputs of what
is compiled: inductor's freezing, which folds them, keeps a second copy of all. The number of images is left open, so
that the last batch of a part compiles nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from encoders.base import one_line
from encoders.errors import EncoderError
from encoders.options import Layer
from encoders.pooling import TokenGrid

Forward = Callable[[Tensor, Sequence[Layer]], list[TokenGrid]]
"""Pixels and layers -> those layers' tokens, in order; None is the final features."""


def compiled(forward: Forward, *, name: str) -> Forward:
    """The function, compiled at its first call for each image size, which takes tens of seconds.

    Args:
        name: the encoder, for messages.

    Raises:
        EncoderError: when called, where torch cannot compile it here (such as without a C++ compiler).
    """
    from torch._dynamo import maybe_mark_dynamic
    from torch._dynamo.exc import TorchDynamoException

    run = torch.compile(forward)

    def run_compiled(images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
        count = len(images)
        # One image alone would be compiled for itself.
        batch = torch.cat([images, images]) if count == 1 else images
        maybe_mark_dynamic(batch, 0)
        try:
            found: list[TokenGrid] = run(batch, layers)
        except TorchDynamoException as error:
            raise EncoderError(
                f"encoder {name} cannot be compiled here; leave compile=yes away: {one_line(error)}"
            ) from error
        return [TokenGrid(layer.prefix[:count], layer.grid[:count]) for layer in found]

    return run_compiled
