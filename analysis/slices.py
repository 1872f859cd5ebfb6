"""Coalition values by slice: question type, planted factor, or any `slice_*` column.

Handed a task's table and its resampler; hands on, per slice column and value, all coalition values, Shapley, leave-one-
out and solo values and pairwise interactions with n and interval. Slices share the task's resampled images. Values with
too few examples are named as not run, and directions of retrieval that have too few are left out and named. p-values of
Shapley values, and those of leave-one-out, are corrected for false discovery (Benjamini-Hochberg) over all slices and
encoders of a task.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Bool

from analysis.answers import Rows
from analysis.bootstrap import Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.columns import Columns
from analysis.contributions import Contributions
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.leaves import SHARE, Leaf, is_run, leaf, not_run
from analysis.sampled import estimate
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
            everything = np.asarray(values == value, dtype=bool)
            keep, left_out = _directions_with_enough(rows, everything)
            why = _thin_words(rows, everything) if not keep.any() else _rare_words(place)
            if why:
                result[name][value] = {"n": count, **not_run(why)}
                continue
            result[name][value] = _one(rows, columns, space, resampler, keep, chance)
            if left_out:
                result[name][value]["left_out"] = left_out
    _correct(result)
    return result


def _directions_with_enough(
    rows: Rows, keep: Bool[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], dict[str, int]]:
    """The slice without directions of retrieval that are too thin in it, and how many queries those had.

    All directions count the same in the metric, so that a few queries of one would decide half of it.
    """
    left_out = {}
    for direction in sorted(set(rows.directions[keep])):
        own = keep & (rows.directions == direction)
        if _is_thin(rows, own):
            keep, left_out[str(direction)] = keep & ~own, int(own.sum())
    return keep, left_out


def _is_thin(rows: Rows, keep: Bool[np.ndarray, " n"]) -> bool:
    return int(keep.sum()) < MIN_EXAMPLES or len(np.unique(rows.clusters[keep])) < MIN_IMAGES


def _thin_words(rows: Rows, keep: Bool[np.ndarray, " n"]) -> str:
    directions = " in a direction" if len(set(rows.directions[keep])) > 1 else ""
    found = f"{int(keep.sum())} examples of {len(np.unique(rows.clusters[keep]))} images"
    return f"{found}; at least {MIN_EXAMPLES} of {MIN_IMAGES}{directions} are needed"


def _rare_words(place: int) -> str | None:
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
    found = Contributions(space, values, n, undefined="undefined in this slice: one class only")
    shapley = values.linear(space.shapley()) if space.complete else estimate(space, values, order=1)
    return {
        "n": n,
        "images": len(np.unique(rows.clusters[keep])),
        "coalitions": [
            {"encoders": list(coalition), **leaf(values, column, n=n, undefined=found.undefined, bounds=SHARE)}
            for column, coalition in enumerate(space.coalitions)
        ],
        "full": leaf(values, space.full, n=n, undefined=found.undefined, bounds=SHARE),
        "empty": leaf(values, 0, n=n, undefined=found.undefined, bounds=SHARE),
        "shapley": _with_p(found, shapley),
        "leave_one_out": _with_p(found, values.linear(space.leave_one_out())),
        "solo": found.solo(),
        "interaction": found.interaction(),
    }


def _with_p(found: Contributions, draws: Draws) -> dict[str, Leaf]:
    leaves = found.per_encoder(draws)
    for column, one in enumerate(leaves.values()):
        if is_run(one):
            one["p"] = round(draws.p_value(column), 9)
    return leaves


def _correct(result: dict[str, dict[str, Any]]) -> None:
    for quantity in ("shapley", "leave_one_out"):
        leaves = [
            entry
            for values in result.values()
            for one in values.values()
            for entry in one.get(quantity, {}).values()
            if "p" in entry
        ]
        for entry, corrected in zip(leaves, benjamini_hochberg([entry["p"] for entry in leaves]), strict=True):
            entry["p_bh"] = round(corrected, 9)
