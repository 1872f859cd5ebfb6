"""The floor: what is achieved without looking.

Handed draws of the empty coalition and, where one was trained, of the blind model; hands on the better of
the two and the gain of all encoders over it. Retrieval without images is chance by definition, since no
text alone can rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from analysis.draws import Draws
from analysis.leaves import SHARE, leaf

FloorSource = Literal["empty coalition", "blind model", "chance by definition"]


@dataclass(frozen=True)
class Floor:
    """Where the floor comes from; in `draws`, column 0 is the floor and column 1 the gain of all encoders."""

    source: FloorSource
    draws: Draws

    def leaves(self, *, n: int, chance: float) -> dict[str, Any]:
        """The two leaves of results.json."""
        return {
            "floor": {"source": self.source, **leaf(self.draws, 0, n=n, chance=chance, bounds=SHARE)},
            "gain_over_floor": leaf(self.draws, 1, n=n),
        }


def find_floor(empty: Draws, full: Draws, *, blind: Draws | None, by_definition: bool) -> Floor:
    """The better of text-only values, taken anew in every draw and under every seed.

    Taking the maximum in every draw lifts the floor slightly and so can only make gains smaller.

    Args:
        empty: one column, the coalition without encoders.
        full: one column, all encoders.
        blind: one column, the separately trained text-only model, where there is one.
        by_definition: whether `empty` is chance because the task cannot be answered without images.
    """
    candidates = empty if blind is None else empty.beside(blind)
    best = candidates.largest()
    both = best.beside(full.minus(best))
    source: FloorSource = "blind model" if candidates.point.argmax() == 1 else "empty coalition"
    return Floor("chance by definition" if by_definition else source, both)
