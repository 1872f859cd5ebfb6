"""Coalition values of a live model: each coalition evaluated once, everything else a matrix product.

Handed a function that scores a batch under a coalition; hands on the table example x coalition and the attributions of
`coalition_values` for every example. A sampler or an enumeration over orders asks for the same coalitions again and
again (97 calls for four encoders where 16 are enough).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.coalition_values import Coalition, CoalitionSpace

Value = Callable[[Coalition], Tensor]
"""One number an example, such as the log-probability of its target, with these encoders present."""


def live_table(value: Value, space: CoalitionSpace) -> Float[np.ndarray, "b s"]:
    """The value of every coalition for every example of a batch.

    Args:
        value: called once a coalition, without gradients; returns a tensor of b numbers.
        space: which coalitions.
    """
    with torch.no_grad():
        columns = [value(coalition).double().cpu() for coalition in space.coalitions]
    return np.asarray(torch.stack(columns, dim=1).numpy())


def live_shapley(value: Value, aliases: Sequence[str]) -> Float[np.ndarray, "b e"]:
    """Exact Shapley values of every example."""
    space = CoalitionSpace(tuple(aliases))
    return np.asarray(live_table(value, space) @ space.shapley().T)


def live_leave_one_out(value: Value, aliases: Sequence[str]) -> Float[np.ndarray, "b e"]:
    """What each example's value loses without each encoder; only the coalitions that are needed are evaluated."""
    whole = tuple(aliases)
    with torch.no_grad():
        full = value(whole)
        lost = [full - value(tuple(other for other in whole if other != alias)) for alias in whole]
    return np.asarray(torch.stack(lost, dim=1).double().cpu().numpy())
