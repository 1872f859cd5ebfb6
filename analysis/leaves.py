"""Leaves of results.json: a number never travels without its interval and its n.

Handed draws of the bootstrap; hands on `{"value", "ci95", "n", "chance"?}`, or `{"not_run": why}` for what
could not be computed.
"""

from __future__ import annotations

import math
from typing import Any

from analysis.draws import Draws

Leaf = dict[str, Any]
DIGITS = 6


def not_run(why: str) -> Leaf:
    """What stands in the place of a number that was not computed."""
    return {"not_run": why}


def leaf(
    draws: Draws, column: int, *, n: int, chance: float | None = None, undefined: str = "undefined"
) -> Leaf:
    """One column of draws as a leaf.

    Args:
        n: how many examples the number rests on.
        chance: what guessing would give, where that has a meaning.
        undefined: the reason to give where the number does not exist.
    """
    point, interval = float(draws.point[column]), draws.interval(column)
    if not math.isfinite(point) or interval is None:
        return not_run(undefined)
    result: Leaf = {"value": rounded(point), "ci95": [rounded(end) for end in interval], "n": n}
    if chance is not None:
        result["chance"] = rounded(chance)
    return result


def without_interval(value: float, *, n: int, why: str) -> Leaf:
    """A number whose uncertainty the run folder does not hold, and why."""
    if not math.isfinite(value):
        return not_run("undefined")
    return {"value": rounded(value), "ci95": None, "ci95_not_run": why, "n": n}


def rounded(value: float) -> float:
    """Six digits after the point; no negative zero."""
    return round(float(value), DIGITS) + 0.0


def is_run(leaf: Leaf | None) -> bool:
    """Whether there is a number."""
    return leaf is not None and "value" in leaf
