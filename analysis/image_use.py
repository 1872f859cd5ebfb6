"""The guard against an evaluation that never looked at the image.

Handed the paired difference between each example's own image and another one's; hands on whether it is equivalent to
zero within a point either way (two one-sided tests, Schuirmann 1987), shown to be larger, or neither, in which case the
data cannot tell.
"""

from __future__ import annotations

from typing import Any, Literal

from analysis.draws import Draws
from analysis.leaves import leaf, not_run
from analysis.power import LEVEL, detectable_difference

MARGIN = 0.01
"""Equivalence margin: one point."""

State = Literal["image-blind", "uses the image", "worse with its image", "cannot tell"]


def image_use(difference: Draws | None, *, n: int, why: str = "") -> dict[str, Any]:
    """The guard's entry in results.json.

    Args:
        difference: one column, all encoders with the right image less with a wrong one; None where not run.
        why: it was not run.
    """
    if difference is None:
        return not_run(why)
    found = leaf(difference, 0, n=n)
    if "not_run" in found:
        return found
    p = difference.p_equivalent(0, margin=MARGIN)
    return {
        "state": _state(found["ci95"], p),
        "difference": found,
        "p_equivalent": round(p, 9),
        "margin": MARGIN,
        "detectable": round(detectable_difference(difference, 0), 6),
    }


def _state(interval: list[float], p_equivalent: float) -> State:
    if p_equivalent < LEVEL:
        return "image-blind"
    if interval[0] > 0:
        return "uses the image"
    return "worse with its image" if interval[1] < 0 else "cannot tell"
