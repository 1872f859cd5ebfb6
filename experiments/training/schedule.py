"""Learning rates over the steps, as factors of the peak."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int, steps: int, warmup: float, schedule: Literal["linear", "cosine", "constant"] = "linear"
) -> float:
    """Linear warm-up over a share of the steps, then decay to 0, or none; a factor of the peak.

    Args:
        step: steps done before.
        steps: in all.
        warmup: share of the steps.
    """
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    if schedule == "constant":
        return 1.0
    left = max(0.0, (steps - step) / max(1, steps - warm))
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
