"""The columns of one task's table: every coalition, and every control beside them.

Handed a complete `TaskAnswers`; hands on draws of all of them under the same resampled images. Where the
coalition without encoders has no answers by definition (retrieval), its column is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from analysis.answers import Cell, CellName, TaskAnswers
from analysis.bootstrap import Draws, Resampler
from analysis.coalition_values import CoalitionSpace, coalition_name
from analysis.errors import AnswersError
from analysis.metric_values import METRICS, metric_statistic

CONTROLS = {
    "blind": "empty",
    "shuffled": "full",
    "duplicate": "any",
    "seeds": "any",
    "matched": "any",
    "averaged": "any",
}
"""Which coalition answers for each control: none, all encoders, or the one that was stored."""


@dataclass(frozen=True)
class Columns:
    """Cells of a task in the order of the coalition space, then controls and other modes by name."""

    answers: TaskAnswers
    metric: str
    space: CoalitionSpace
    extra: dict[str, CellName]

    @property
    def empty_by_definition(self) -> bool:
        """Whether the coalition without encoders is chance because nothing can be answered without images."""
        return METRICS[self.metric] == "directions"

    @property
    def _stored(self) -> Sequence[tuple[str, ...]]:
        return self.space.coalitions[1:] if self.empty_by_definition else self.space.coalitions

    def cells(self, name: CellName) -> list[Cell]:
        """A cell under every seed.

        Raises:
            AnswersError: some seed lacks it.
        """
        found = self.answers.across_seeds(name)
        if found is None:
            raise AnswersError(f"task {self.answers.task!r}: cell {name} is missing under some seed")
        return found

    def coalition_cells(self, coalition: Sequence[str]) -> list[Cell]:
        """The masked cell of a coalition under every seed."""
        ordered = [alias for alias in self.space.aliases if alias in coalition]
        return self.cells(CellName("masked", "drop", coalition_name(ordered)))

    def coalition_draws(
        self, resampler: Resampler, *, chance: float, keep: Bool[np.ndarray, " n"] | None = None
    ) -> Draws:
        """Values of all 2^n coalitions, over all rows or the kept ones."""
        names = [CellName("masked", "drop", coalition_name(coalition)) for coalition in self._stored]
        draws = self._draw(names, resampler, keep)
        return draws.with_constant(chance, column=0) if self.empty_by_definition else draws

    def extra_draws(self, resampler: Resampler) -> dict[str, Draws]:
        """One-column draws of every control and other mode that was run."""
        if not self.extra:
            return {}
        draws = self._draw(list(self.extra.values()), resampler, None)
        return {label: draws.columns([column]) for column, label in enumerate(self.extra)}

    def _draw(
        self, names: Sequence[CellName], resampler: Resampler, keep: Bool[np.ndarray, " n"] | None
    ) -> Draws:
        per_name = [self.cells(name) for name in names]
        per_seed = zip(*per_name, strict=True)
        return resampler.draw(
            [metric_statistic(self.metric, self.answers.rows, list(cells), keep=keep) for cells in per_seed]
        )


def task_columns(answers: TaskAnswers, metric: str, space: CoalitionSpace) -> Columns:
    """The complete columns of a task.

    Raises:
        AnswersError: a coalition has no answers; each is named.
    """
    columns = Columns(answers, metric, space, _extra(answers, space))
    answers.require(columns._stored)
    return columns


def _extra(answers: TaskAnswers, space: CoalitionSpace) -> dict[str, CellName]:
    wanted = {"empty": "", "full": coalition_name(space.aliases)}
    extra: dict[str, CellName] = {}
    for mode in answers.modes:
        if mode in ("masked", "retrained"):
            continue
        kind = CONTROLS.get(mode, "full")
        coalitions = (
            [wanted[kind]] if kind != "any" else sorted({*wanted.values(), *_coalitions(answers, mode)})
        )
        names = [answers.find(mode, coalition) for coalition in coalitions]
        found = [name for name in names if name is not None and answers.across_seeds(name) is not None]
        if found:
            extra[mode] = found[-1]
    return extra


def _coalitions(answers: TaskAnswers, mode: str) -> set[str]:
    return {name.coalition for cells in answers.cells.values() for name in cells if name.mode == mode}
