"""All encoders together against what they must beat, and each encoder against its absence.

Handed a task's columns and the draws of its coalitions; hands on floor, best single encoder, controls with the guard
against image-blind evaluation, and the entries of the verdict that grades are made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from analysis.answers import TaskAnswers
from analysis.bootstrap import Resampler
from analysis.columns import Columns
from analysis.controls import (
    CONTROLS,
    Comparison,
    complementarity,
    control_cells,
    control_leaves,
    missing_controls,
)
from analysis.draws import Draws
from analysis.floor import find_floor
from analysis.image_use import image_use
from analysis.leaves import SHARE, is_run, leaf, not_run
from analysis.metric_values import kind_of
from analysis.power import detectable_difference, examples_needed
from analysis.removals import disagreements
from analysis.verdict import is_binary, mcnemar_exact

EXACT = "exact McNemar"
CHOICE_RESAMPLES = 500
"""Enough for intervals of what a choice was made on."""


def comparison_results(
    columns: Columns,
    resampler: Resampler,
    values: Draws,
    selection: TaskAnswers | None,
    *,
    chance: float,
    seed: int,
    impossible: Mapping[str, str],
) -> dict[str, Any]:
    """Floor, best single encoder, controls and other modes.

    Args:
        impossible: controls that could not be made, and why.
    """
    n, gallery = len(columns.answers.rows.ids), columns.empty_by_definition
    full = values.columns([columns.space.full])
    found = _compared(columns, resampler, full)
    blind = found["blind"][0].value if found["blind"] else None
    floor = find_floor(values.columns([0]), full, blind=blind, by_definition=gallery)
    single = _best_single(columns, values, selection, chance=chance, seed=seed)
    best = single["best_single"].get("encoder")
    missing = missing_controls(found, columns.answers, best_single=best, gallery=gallery, impossible=impossible)
    controls, gains = control_leaves(found, missing, n=n, chance=chance, gallery=gallery)
    others = {mode: columns.draws([name], resampler) for mode, name in columns.other_modes().items()}
    gains |= {mode: leaf(full.minus(value), 0, n=n) for mode, value in others.items()}
    shuffled = found["shuffled"][0].gain if found["shuffled"] else None
    return {
        **floor.leaves(n=n, chance=chance),
        **single,
        "controls": controls,
        "other_modes": {mode: leaf(value, 0, n=n, chance=chance, bounds=SHARE) for mode, value in others.items()},
        "control_gains": gains,
        "complementarity": complementarity(found, missing, n=n),
        "image_use": image_use(shuffled, n=n, why=missing.get("shuffled", "")),
    }


def _compared(columns: Columns, resampler: Resampler, full: Draws) -> dict[str, list[Comparison]]:
    """Draws of every control cell; those of galleries that are blind do not exist."""
    cells = control_cells(columns.answers, columns.space.aliases)
    if columns.empty_by_definition:
        cells["blind"] = []
    found: dict[str, list[Comparison]] = {}
    for mode in CONTROLS:
        values = [(name, columns.draws([name], resampler)) for name in cells[mode]]
        found[mode] = [Comparison(name, value, full.minus(value)) for name, value in values]
    return found


def _best_single(
    columns: Columns, values: Draws, selection: TaskAnswers | None, *, chance: float, seed: int
) -> dict[str, Any]:
    """The best single encoder, chosen on validation answers and valued on the evaluated split."""
    if selection is None:
        why = not_run("the run holds no validation answers (split 'select') to choose the best single encoder on")
        return {"best_single": why, "gain_over_best_single": why}
    aliases, space = columns.space.aliases, columns.space
    names = [columns.name_of((alias,)) for alias in aliases]
    selection.require(names)
    chooser = Resampler(
        f"{selection.task}.select",
        num_clusters=selection.rows.num_clusters,
        num_resamples=CHOICE_RESAMPLES,
        seed=seed,
    )
    choice = replace(columns, answers=selection).draws(names, chooser)
    if np.isnan(choice.point).all():
        why = not_run("no single encoder has a value on the validation answers")
        return {"best_single": why, "gain_over_best_single": why}
    best = int(np.nanargmax(choice.point))
    full, single = values.columns([space.full]), values.columns([space.column([aliases[best]])])
    n = len(columns.answers.rows.ids)
    return {
        "best_single": {
            "encoder": aliases[best],
            **leaf(single, 0, n=n, chance=chance, bounds=SHARE),
            "chosen_on": {a: leaf(choice, c, n=len(selection.rows.ids), bounds=SHARE) for c, a in enumerate(aliases)},
        },
        "gain_over_best_single": leaf(full.minus(single), 0, n=n),
    }


def verdict_entries(
    columns: Columns, values: Draws, sensitivity: dict[str, Any], *, comparisons: int
) -> list[dict[str, Any]]:
    """Per encoder the gain that it brings, its p-value before correction, and what the design could have found.

    Args:
        comparisons: of the whole run, over which p-values will be corrected.
    """
    space, n = columns.space, len(columns.answers.rows.ids)
    gains = values.linear(space.leave_one_out())
    entries = []
    for column, alias in enumerate(space.aliases):
        gain = leaf(gains, column, n=n)
        p, method = _p_value(columns, gains, column, [other for other in space.aliases if other != alias])
        test: Literal["normal", "exact"] = "exact" if method == EXACT else "normal"
        entry = {"encoder": alias, "gain": gain, "p": round(p, 9), "p_method": method}
        if is_run(gain):
            entry["detectable"] = round(detectable_difference(gains, column, comparisons=comparisons), 6)
            entry["needed"] = examples_needed(gains, column, n=n, comparisons=comparisons, test=test)
        else:
            entry |= {"detectable": dict(gain), "needed": dict(gain)}
        entries.append({**entry, "lacking": disagreements(sensitivity, alias, gain=gain)})
    return entries


def _p_value(columns: Columns, gains: Draws, column: int, others: Sequence[str]) -> tuple[float, str]:
    """Exact McNemar where it applies (one seed, right or wrong, one example an image), else of the draws."""
    answers = columns.answers
    one_each = answers.rows.num_clusters == len(answers.rows.ids) and len(answers.seeds) == 1
    if kind_of(columns.metric) == "mean" and one_each:
        [whole] = columns.coalition_cells(columns.space.aliases)
        [rest] = columns.coalition_cells(others)
        if is_binary(whole.score, rest.score):
            gained, lost = int((whole.score > rest.score).sum()), int((whole.score < rest.score).sum())
            return mcnemar_exact(gained, lost), EXACT
    several = "t over images and seeds"
    return gains.p_value(column), several if len(answers.seeds) > 1 else "paired bootstrap over images"
