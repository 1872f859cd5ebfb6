"""What a design could have found: minimum detectable differences, and the examples that a difference needs.

Handed draws of a paired difference; hands on the true difference that the same design would find with 80 % power, and
how many examples it takes to find a given one. Both use the variance parts of the draws: more images shrink the
images' part and what is peculiar to single seeds, and where the rest hides the difference no number of examples is
enough.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy.optimize import brentq  # type: ignore[import-untyped]

from analysis.draws import Draws
from analysis.leaves import Leaf, not_run

LEVEL = 0.05
POWER = 0.8
PLANNED_GAIN = 0.03
"""The gain for which the examples needed are printed."""
MOST = 1e6
"""Times the present examples beyond which a design is not planned."""


def detectable_difference(draws: Draws, column: int, *, comparisons: int = 1, times: float = 1.0) -> float:
    """The true difference that this design would find with 80 % power at the two-sided 5 % level.

    Args:
        comparisons: among how many the level is shared (Bonferroni, the hardest case of Holm's correction).
        times: as if there were that many times the images.
    """
    return draws.detectable(column, level=LEVEL / comparisons, power=POWER, times=times)


def examples_needed(
    draws: Draws,
    column: int,
    *,
    n: int,
    comparisons: int = 1,
    gain: float = PLANNED_GAIN,
    test: Literal["normal", "exact"] = "normal",
) -> Leaf:
    """How many examples like these `n` would find `gain` with 80 % power, with as many seeds.

    Args:
        test: an exact test of counts needs 1 / gain examples more (the continuity correction).

    Returns:
        {"examples", "gain", "power", "comparisons"}, or that more examples do not help.
    """

    def short_by(logarithm: float) -> float:
        return detectable_difference(draws, column, comparisons=comparisons, times=math.exp(logarithm)) - gain

    most = math.log(MOST)
    if short_by(most) > 0:
        return not_run(f"no number of examples finds {100 * gain:g} points with {draws.num_seeds} seeds that differ so")
    times = math.exp(float(brentq(short_by, -most, most))) if short_by(-most) > 0 else 0.0
    examples = math.ceil(n * times + (1 / gain if test == "exact" else 0))
    return {"examples": max(1, examples), "gain": gain, "power": POWER, "comparisons": comparisons}
