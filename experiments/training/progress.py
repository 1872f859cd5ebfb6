"""How far a training run is, what it has recorded, and when it stops early.

Everything here is plain values that round-trip through JSON exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CHECKS = (0.25, 0.5, 0.8, 1.0)
CONVERGED_WITHIN = 0.01
LAST_FIFTH = 0.8
Scores = Mapping[str, float]


@dataclass(slots=True)
class Progress:
    """What training has done so far.

    Attributes:
        step: steps done.
        running: sum of the losses since the last record.
        losses: (step, mean loss since the record before).
        select: (step, official metric of each task on its validation split).
        best_step: of the best validation; 0 before the first.
        stale: validations since then.
        seconds: spent, in all processes that took part one after the other.
    """

    step: int = 0
    running: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    select: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int = 0
    best_score: float | None = None
    stale: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        made = cls(**values)
        made.losses = [(step, loss) for step, loss in made.losses]
        made.select = [(step, scores) for step, scores in made.select]
        return made

    def validated(self, scores: Scores) -> bool:
        """Records a validation of this step; whether it is the best so far. No number is worse than any."""
        self.select.append((self.step, dict(scores)))
        mean = sum(scores.values()) / len(scores)
        score = -math.inf if math.isnan(mean) else mean
        if self.best_score is None or score > self.best_score:
            self.best_step, self.best_score, self.stale = self.step, score, 0
            return True
        self.stale += 1
        return False


def validation_steps(steps: int, every: int | None) -> set[int]:
    """After which steps the model is validated; always after the last."""
    if every is None:
        return {max(1, round(share * steps)) for share in CHECKS}
    return {*range(every, steps + 1, every), steps}


def has_converged(select: Sequence[tuple[int, Scores]]) -> bool:
    """Whether no task's validation score moved by more than a point over the last fifth of training."""
    if not select:
        return False
    last, after = select[-1]
    earlier = [scores for step, scores in select[:-1] if step <= LAST_FIFTH * last] or [s for _, s in select[:-1]]
    if not earlier:
        return False
    return all(abs(after[task] - earlier[-1][task]) <= CONVERGED_WITHIN for task in after)
