"""An exponential average of a model's trained weights, and swapping it in for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Average of the weights that train, in float32.

    Args:
        decay: share of the average that a step keeps; less in the first steps, (1 + step) / (10 + step), so that the
            random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.state = {name: p.detach().float().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after a step, counted from 1."""
        keep = min(self._decay, (1 + step) / (10 + step))
        for name, average in self.state.items():
            average.lerp_(self._weights[name].detach().float(), 1 - keep)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a saved average."""
        for name, average in self.state.items():
            average.copy_(state[name])

    @torch.no_grad()
    def into_model(self) -> None:
        """Makes the average the model's weights for good."""
        for name, weight in self._weights.items():
            weight.copy_(self.state[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average's weights inside, and its own again afterwards."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.into_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(own[name])
