"""The columns of one task's table: every coalition, and every other cell beside them.

Handed a `TaskAnswers`; hands on draws of any of its cells under the same resampled images. Where the coalition without
encoders has no answers by definition (retrieval), its column is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from analysis.answers import Cell, CellName, TaskAnswers
from analysis.bootstrap import Resampler
from analysis.coalition_values import EXACT_UP_TO, Coalition, CoalitionSpace, all_coalitions, coalition_name
from analysis.controls import CONTROLS, NOT_CONTROLS
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.metric_values import influence_of, kind_of, logprob_statistic, metric_statistic
from analysis.run_files import TableMode


@dataclass(frozen=True)
class Columns:
    """Cells of a task in the order of the coalition space, and other modes by name.

    Attributes:
        mode: of the table's cells: all of one masked model, or each of a model trained on that coalition alone.
        removal: what became of absent encoders in the table's cells.
    """

    answers: TaskAnswers
    metric: str
    space: CoalitionSpace
    mode: TableMode = "masked"
    removal: str = "drop"

    @property
    def empty_by_definition(self) -> bool:
        """Whether the coalition without encoders is chance because nothing can be answered without images."""
        return kind_of(self.metric) == "directions"

    @property
    def names(self) -> list[CellName]:
        """The table's cells, which must be there."""
        stored = self.space.coalitions[1:] if self.empty_by_definition else self.space.coalitions
        return [self.name_of(coalition) for coalition in stored]

    def name_of(self, coalition: Sequence[str]) -> CellName:
        """The table's cell of a coalition in the run's order."""
        return CellName(self.mode, self.removal, coalition_name(coalition))

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
        """The table's cell of a coalition under every seed."""
        return self.cells(self.name_of([alias for alias in self.space.aliases if alias in coalition]))

    def coalition_draws(
        self, resampler: Resampler, *, chance: float, keep: Bool[np.ndarray, " n"] | None = None
    ) -> Draws:
        """Values of all coalitions, over all rows or the kept ones."""
        draws = self.draws(self.names, resampler, keep=keep)
        return draws.with_constant(chance, column=0) if self.empty_by_definition else draws

    def draws(
        self, names: Sequence[CellName], resampler: Resampler, *, keep: Bool[np.ndarray, " n"] | None = None
    ) -> Draws:
        """The metric of each cell, over all rows or the kept ones."""
        rows = self.answers.rows
        per_seed = zip(*(self.cells(name) for name in names), strict=True)
        images = None if keep is None else len(np.unique(rows.clusters[keep]))
        statistics = [metric_statistic(self.metric, rows, list(cells), keep=keep) for cells in per_seed]
        return resampler.draw(statistics, images=images, influence=influence_of(self.metric, rows, keep=keep))

    def logprob_draws(self, resampler: Resampler) -> Draws | None:
        """Mean log-probability of the target in each coalition; None where some answer has none."""
        per_seed = zip(*(self.cells(name) for name in self.names), strict=True)
        statistics = [logprob_statistic(self.answers.rows, list(cells)) for cells in per_seed]
        found = [statistic for statistic in statistics if statistic is not None]
        return resampler.draw(found) if len(found) == len(statistics) else None

    def other_modes(self) -> dict[str, CellName]:
        """Modes that are neither coalitions nor controls, such as re-ranking, with all encoders present."""
        full = coalition_name(self.space.aliases)
        found: dict[str, CellName] = {}
        for mode in self.answers.modes:
            name = self.answers.find(mode, full)
            if mode not in (*NOT_CONTROLS, *CONTROLS) and name is not None and self.answers.across_seeds(name):
                found[mode] = name
        return found


def task_columns(
    answers: TaskAnswers, metric: str, aliases: tuple[str, ...], *, mode: TableMode = "masked"
) -> Columns:
    """The columns of a task: all 2^n coalitions up to `EXACT_UP_TO` encoders, those that are there beyond.

    Raises:
        AnswersError: a coalition that is needed has no answers; each is named.
    """
    whole = answers.find(mode, coalition_name(aliases))  # nothing is absent in it: the removal is the table's
    removal = "drop" if whole is None else whole.removal
    space = CoalitionSpace(aliases)
    if len(aliases) > EXACT_UP_TO:
        space = CoalitionSpace(aliases, _stored(answers, aliases, (mode, removal)))
    columns = Columns(answers, metric, space, mode, removal)
    answers.require(columns.names)
    return columns


def _stored(answers: TaskAnswers, aliases: tuple[str, ...], table: tuple[str, str]) -> tuple[Coalition, ...]:
    """The coalitions of a run that samples them: what was evaluated under every seed, and what must have been."""
    known = {name.coalition for cells in answers.cells.values() for name in cells if name[:2] == table}
    needed = {(alias,) for alias in aliases} | {tuple(a for a in aliases if a != alias) for alias in aliases}
    needed |= {aliases, ()}
    return tuple(c for c in all_coalitions(aliases) if c in needed or coalition_name(c) in known)
