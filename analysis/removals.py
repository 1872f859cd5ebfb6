"""Other ways of removing an encoder, read beside the default.

Handed the masked coalitions, in which absent encoders are removed as VE-dropout removed them in training (the default;
mostly `drop`: they leave the sequence), and whatever other cells a run holds: `zero` and `mean` put constants in the
place of absent encoders' tokens, `permuted` another example's features (which keeps their distribution and breaks the
pairing; Gat et al. 2021), and `retrained` is a model trained on that coalition alone. Hands on their values, what they
say of each encoder, and whether they rank coalitions as the default does. A removal that removes nothing is the
default: the full coalition may be absent from the files.
Where a run has retrained coalitions alone, these are its table, and there is nothing to read beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata  # type: ignore[import-untyped]

from analysis.answers import CellName, TaskAnswers
from analysis.coalition_values import Coalition, CoalitionSpace, coalition_name
from analysis.draws import Draws
from analysis.leaves import CORRELATION, Leaf, is_run, leaf, not_run

REMOVALS = {"drop": "dropping", "zero": "zeros", "mean": "means", "permuted": "another image's"}
"""What becomes of absent encoders in one model, and what a table calls it."""
RETRAINED = "retrained"
FEWEST_TO_RANK = 3


@dataclass(frozen=True)
class OtherValues:
    """Values of some coalitions under another removal, and of the same ones under the default."""

    space: CoalitionSpace
    coalitions: tuple[Coalition, ...]
    values: Draws
    default: Draws

    def results(self, *, n: int, chance: float) -> dict[str, Any]:
        """Coalition values, leave-one-out, Shapley values where all coalitions are there, and rank agreement."""
        return {
            "coalitions": [
                {"encoders": list(coalition), **leaf(self.values, column, n=n, chance=chance)}
                for column, coalition in enumerate(self.coalitions)
            ],
            "leave_one_out": {alias: self._leave_one_out(alias, n) for alias in self.space.aliases},
            "shapley": self._shapley(n),
            "rank_agreement": self._agreement(n),
        }

    def _leave_one_out(self, alias: str, n: int) -> Leaf:
        rest = tuple(other for other in self.space.aliases if other != alias)
        missing = [c for c in (self.space.aliases, rest) if c not in self.coalitions]
        if missing:
            return not_run(f"coalition {coalition_name(missing[0]) or '(none)'} has no such cell")
        whole, without = (self.values.columns([self.coalitions.index(c)]) for c in (self.space.aliases, rest))
        return leaf(whole.minus(without), 0, n=n)

    def _shapley(self, n: int) -> dict[str, Leaf] | Leaf:
        if not (self.space.complete and self.coalitions == self.space.coalitions):
            return not_run(f"needs all coalitions, has {len(self.coalitions)}")
        found = self.values.linear(self.space.shapley())
        return {alias: leaf(found, column, n=n) for column, alias in enumerate(self.space.aliases)}

    def _agreement(self, n: int) -> Leaf:
        if len(self.coalitions) < FEWEST_TO_RANK:
            return not_run(f"needs {FEWEST_TO_RANK} coalitions, has {len(self.coalitions)}")
        found = self.values.beside(self.default).apply(rank_correlation)
        ranked = leaf(found, 0, n=n, undefined="undefined: all coalitions tie", bounds=CORRELATION)
        return {**ranked, "coalitions": len(self.coalitions)}


def rank_correlation(values: Float[np.ndarray, "*r k"]) -> Float[np.ndarray, " *r"]:
    """Spearman's correlation of the first half of the last axis with the second; NaN where a half ties throughout."""
    half = values.shape[-1] // 2
    first, second = (rankdata(part, axis=-1) for part in (values[..., :half], values[..., half:]))
    first, second = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(scale > 0, (first * second).sum(axis=-1) / scale, np.nan))


def removal_cells(
    answers: TaskAnswers, space: CoalitionSpace, name: str, *, default: str = "drop"
) -> dict[Coalition, CellName]:
    """The cells of one way of removing that are there under every seed.

    Args:
        default: the table's way, which has the cell of all encoders.
    """
    found: dict[Coalition, CellName] = {}
    for coalition in space.coalitions:
        mode, removal = (RETRAINED, "drop") if name == RETRAINED else ("masked", name)
        cell = CellName(mode, removal, coalition_name(coalition))
        if answers.across_seeds(cell):
            found[coalition] = cell
    if found and name != RETRAINED:
        found.setdefault(space.aliases, CellName("masked", default, coalition_name(space.aliases)))
    return {coalition: found[coalition] for coalition in space.coalitions if coalition in found}


def disagreements(sensitivity: dict[str, Any], alias: str, *, gain: Leaf) -> list[str]:
    """What keeps a gain from being established: other removals that were not evaluated, or do not show it."""
    seen = {name: one for name in (*REMOVALS, RETRAINED) if is_run(one := _without(sensitivity, name, alias))}
    if not seen:
        return ["only one way of removing encoders was evaluated"]
    if not is_run(gain) or gain["ci95"][0] <= 0 <= gain["ci95"][1]:
        return []
    return [
        f"removal {name!r} does not show the gain of {alias}"
        for name, one in seen.items()
        if not _same_side(one["ci95"], gain["value"])
    ]


def is_missed(sensitivity: dict[str, Any], alias: str, *, margin: float) -> bool:
    """Whether models retrained without an encoder are worse, by what may be more than the margin."""
    found = _without(sensitivity, RETRAINED, alias)
    return is_run(found) and found["ci95"][0] > 0 and found["ci95"][1] > margin


def _without(sensitivity: dict[str, Any], name: str, alias: str) -> Leaf:
    """What is lost without an encoder by another way of removing it."""
    way = sensitivity.get(name, {})
    return dict(way.get("leave_one_out", {}).get(alias, not_run("no such cells")))


def _same_side(interval: Sequence[float], value: float) -> bool:
    low, high = interval
    return low > 0 if value > 0 else high < 0
