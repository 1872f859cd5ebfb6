"""The floor: what is achieved without looking.

Handed draws of the empty coalition and, where one was trained, of the blind model; hands on the better of
the two and the gain of all encoders over it. Retrieval without images is chance by definition, since no
text alone can rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.bootstrap import Draws
from analysis.leaves import leaf

FloorSource = Literal["empty coalition", "blind model", "chance by definition"]


@dataclass(frozen=True)
class Floor:
    """Where the floor comes from; in `draws`, column 0 is the floor and column 1 the gain of all encoders."""

    source: FloorSource
    draws: Draws

    def leaves(self, *, n: int, chance: float) -> dict[str, Any]:
        """The two leaves of results.json."""
        return {
            "floor": {"source": self.source, **leaf(self.draws, 0, n=n, chance=chance)},
            "gain_over_floor": leaf(self.draws, 1, n=n),
        }


def find_floor(empty: Draws, full: Draws, *, blind: Draws | None, by_definition: bool) -> Floor:
    """The better of text-only values, taken anew in every draw.

    Taking the maximum in every draw lifts the floor slightly and so can only make gains smaller.

    Args:
        empty: one column, the coalition without encoders.
        full: one column, all encoders.
        blind: one column, the separately trained text-only model, where there is one.
        by_definition: whether `empty` is chance because the task cannot be answered without images.
    """
    candidates = [empty] if blind is None else [empty, blind]
    points = [float(draws.point[0]) for draws in candidates]
    best = Draws(
        np.max([draws.point for draws in candidates], axis=0),
        np.max([draws.samples for draws in candidates], axis=0),
    )
    both = Draws(
        np.concatenate([best.point, full.point - best.point]),
        np.concatenate([best.samples, full.samples - best.samples], axis=1),
    )
    source: FloorSource = "blind model" if int(np.argmax(points)) == 1 else "empty coalition"
    return Floor("chance by definition" if by_definition else source, both)
