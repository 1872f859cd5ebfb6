"""Coalition values by slice: question type, planted factor, or any `slice_*` column.

Handed a task's table and its resampler; hands on, per slice column and value, all coalition values, Shapley
and solo values with n and interval. Slices share the task's resampled images. Values with too few examples
are named as not run; p-values of Shapley values are corrected for false discovery (Benjamini-Hochberg) over
all slices of a task.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Bool

from analysis.answers import Rows
from analysis.bootstrap import Draws, Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.columns import Columns
from analysis.errors import AnswersError
from analysis.leaves import leaf, not_run
from analysis.verdict import benjamini_hochberg

MIN_EXAMPLES = 30
MIN_IMAGES = 10
MAX_VALUES = 16


def slice_results(
    rows: Rows, columns: Columns, space: CoalitionSpace, resampler: Resampler, *, chance: float
) -> dict[str, dict[str, Any]]:
    """Per slice column a dictionary from value to results, most frequent values first."""
    result: dict[str, dict[str, Any]] = {}
    for name, values in rows.slices.items():
        counts = Counter(str(value) for value in values if value != "")
        if not counts:
            continue
        result[name] = {}
        for place, (value, count) in enumerate(counts.most_common()):
            keep = np.asarray(values == value, dtype=bool)
            why = _reason_against(rows, keep, count, place)
            result[name][value] = (
                {"n": count, **not_run(why)} if why else _one(rows, columns, space, resampler, keep, chance)
            )
    _correct(result)
    return result


def _reason_against(rows: Rows, keep: Bool[np.ndarray, " n"], count: int, place: int) -> str | None:
    images = len(np.unique(rows.clusters[keep]))
    if count < MIN_EXAMPLES or images < MIN_IMAGES:
        return f"{count} examples of {images} images; at least {MIN_EXAMPLES} of {MIN_IMAGES} are needed"
    return f"only the {MAX_VALUES} most frequent values are reported" if place >= MAX_VALUES else None


def _one(
    rows: Rows,
    columns: Columns,
    space: CoalitionSpace,
    resampler: Resampler,
    keep: Bool[np.ndarray, " n"],
    chance: float,
) -> dict[str, Any]:
    n = int(keep.sum())
    try:
        values = columns.coalition_draws(resampler, chance=chance, keep=keep)
    except AnswersError as error:
        return {"n": n, **not_run(str(error))}
    shapley, solo = values.linear(space.shapley()), values.linear(space.solo())
    undefined = "undefined in this slice: one class only"
    return {
        "n": n,
        "images": len(np.unique(rows.clusters[keep])),
        "coalitions": [
            {"encoders": list(coalition), **leaf(values, column, n=n, undefined=undefined)}
            for column, coalition in enumerate(space.coalitions)
        ],
        "full": leaf(values, space.full, n=n, undefined=undefined),
        "empty": leaf(values, 0, n=n, undefined=undefined),
        "shapley": {
            alias: _with_p(shapley, column, n, undefined) for column, alias in enumerate(space.aliases)
        },
        "solo": {
            alias: leaf(solo, column, n=n, undefined=undefined) for column, alias in enumerate(space.aliases)
        },
    }


def _with_p(draws: Draws, column: int, n: int, undefined: str) -> dict[str, Any]:
    result = leaf(draws, column, n=n, undefined=undefined)
    return {**result, "p": round(draws.p_value(column), 6)} if "value" in result else result


def _correct(result: dict[str, dict[str, Any]]) -> None:
    leaves = [
        entry
        for values in result.values()
        for one in values.values()
        for entry in one.get("shapley", {}).values()
        if "p" in entry
    ]
    for entry, corrected in zip(leaves, benjamini_hochberg([entry["p"] for entry in leaves]), strict=True):
        entry["p_bh"] = round(corrected, 6)
