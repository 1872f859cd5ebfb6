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
STILL = 1e-12
"""Intervals narrower than this have no width."""
UNMOVED = "the same under every resample: no example shows how it varies"
SHARE = (0.0, 1.0)
CORRELATION = (-1.0, 1.0)
UP_TO_ONE = (-math.inf, 1.0)


def not_run(why: str) -> Leaf:
    """What stands in the place of a number that was not computed."""
    return {"not_run": why}


def leaf(
    draws: Draws,
    column: int,
    *,
    n: int,
    chance: float | None = None,
    undefined: str = "undefined",
    bounds: tuple[float, float] = (-math.inf, math.inf),
    needs_width: bool = False,
) -> Leaf:
    """One column of draws as a leaf.

    Args:
        n: how many examples the number rests on.
        chance: what guessing would give, where that has a meaning.
        undefined: the reason to give where the number does not exist.
        bounds: what the number can be at all; the interval ends there.
        needs_width: whether a number that is the same under every resample is told without an interval.
    """
    interval = draws.interval(column)
    if interval is None:
        why = draws.why_no_interval(column)
        return not_run(undefined if why == "undefined" else str(why))
    if needs_width and interval[1] - interval[0] < STILL:
        return without_interval(float(draws.point[column]), n=n, why=UNMOVED)
    ends = [rounded(min(max(end, bounds[0]), bounds[1])) for end in interval]
    result: Leaf = {"value": rounded(float(draws.point[column])), "ci95": ends, "n": n}
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
