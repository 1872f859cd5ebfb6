"""From numbers to grades: what may be claimed about each encoder.

Handed the paired leave-one-out gain of each encoder with its p-value and standard error; hands on a grade,
what keeps it from a higher one, and the smallest difference that the design would have found. A model that does
not beat its floor says nothing about its encoders, least of all that they are redundant. Grades:
`established` (needs three seeds, agreeing removals and passed ensemble controls), `suggestive`,
`undetermined`, `redundant` (the interval lies within the equivalence margin) and `harmful`. p-values are
corrected after Holm over all encoders and tasks of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, norm  # type: ignore[import-untyped]

from analysis.leaves import Leaf, is_run

Grade = Literal["established", "suggestive", "undetermined", "redundant", "harmful"]

MARGIN = 0.01
"""Equivalence margin: a gain within one point either way is called redundant."""

LEVEL = 0.05
POWER = 0.8
SEEDS_TO_ESTABLISH = 3
ENSEMBLE_CONTROLS = ("duplicate", "seeds", "averaged")

ACTIONS: dict[Grade, str] = {
    "established": "keep",
    "suggestive": "keep, and confirm with more seeds",
    "undetermined": "undecided: evaluate more examples before dropping it",
    "redundant": "may be dropped without a loss above the margin",
    "harmful": "drop, and confirm with more seeds",
}
UNLEARNED = "all encoders together do not beat the floor"
UNLEARNED_ACTION = "undecided: the model has not learned the task, train it longer or otherwise"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        corrected[index] = running
    return [float(value) for value in corrected]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's false-discovery correction, in the order given."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")[::-1]
    corrected = np.empty(count)
    running = 1.0
    for position, index in enumerate(order):
        running = min(running, p_values[index] * count / (count - position))
        corrected[index] = running
    return [float(value) for value in corrected]


def mcnemar_exact(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p for examples that only one of two fixed models gets right."""
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)


def is_binary(*scores: Float[np.ndarray, " n"]) -> bool:
    """Whether every share is 0 or 1."""
    return all(bool(np.isin(values, (0.0, 1.0)).all()) for values in scores)


def detectable_difference(standard_error: float) -> float:
    """The true difference that this design would find with 80 % power at the two-sided 5 % level."""
    return float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * standard_error)


def lacking_for_established(
    num_seeds: int, control_gains: dict[str, Leaf], *, num_removals: int
) -> list[str]:
    """What keeps any encoder of a task from the grade `established`; empty when nothing does.

    Args:
        control_gains: per control, the paired gain of all encoders over it.
        num_removals: in how many ways encoders were removed.
    """
    lacking = []
    if num_seeds < SEEDS_TO_ESTABLISH:
        lacking.append(f"{num_seeds} of at least {SEEDS_TO_ESTABLISH} seeds")
    if num_removals < 2:
        lacking.append("only one way of removing encoders was evaluated")
    absent = [name for name in ENSEMBLE_CONTROLS if not is_run(control_gains.get(name))]
    if absent:
        lacking.append(f"controls not run: {', '.join(absent)}")
    for name in ENSEMBLE_CONTROLS:
        if name not in absent and control_gains[name]["ci95"][0] <= 0:
            lacking.append(f"the gain over control {name!r} may be zero")
    return lacking


def grade(gain: Leaf, p_holm: float, lacking: Sequence[str]) -> Grade:
    """The grade of one encoder from its paired gain; whether the model learned anything is asked first, then the
    margin, then direction and evidence."""
    if not is_run(gain) or UNLEARNED in lacking:
        return "undetermined"
    low, high = gain["ci95"]
    if -MARGIN <= low and high <= MARGIN:
        return "redundant"
    if p_holm >= LEVEL or low <= 0 <= high:
        return "undetermined"
    if high < 0:
        return "harmful"
    return "suggestive" if lacking else "established"


def finish_verdicts(tasks: dict[str, dict[str, Any]], *, num_resamples: int) -> None:
    """Fills in corrected p-values, grades and actions over all tasks of a run, in place.

    The smallest p that resampling can give is 1 / (resamples + 1); where Holm's correction lifts even that
    above the level, the verdicts say that more resamples are needed.
    """
    entries = [(task, entry) for task in tasks.values() for entry in task["verdict"]]
    if len(entries) / (num_resamples + 1) >= LEVEL:
        few = f"{num_resamples} resamples, too few for {len(entries)} comparisons"
        for _, entry in entries:
            entry["lacking"] = [*entry["lacking"], few]
    for task, entry in entries:
        if not (is_run(task["gain_over_floor"]) and task["gain_over_floor"]["ci95"][0] > 0):
            entry["lacking"] = [*entry["lacking"], UNLEARNED]
    corrected = holm([entry["p"] for _, entry in entries])
    for (task, entry), p_holm in zip(entries, corrected, strict=True):
        entry["p_holm"] = round(p_holm, 6)
        entry["grade"] = grade(entry["gain"], p_holm, entry["lacking"])
        entry["action"] = UNLEARNED_ACTION if UNLEARNED in entry["lacking"] else ACTIONS[entry["grade"]]
        entry["comparisons"] = len(entries)
        entry["replaceable_by"] = _partners(entry, task["interaction"])


def _partners(entry: dict[str, Any], interactions: list[dict[str, Any]]) -> list[str]:
    """Encoders whose interaction with this one is negative beyond the margin: they share what they know."""
    mine = [
        i for i in interactions if is_run(i) and entry["encoder"] in i["encoders"] and i["ci95"][1] < -MARGIN
    ]
    ordered = sorted(mine, key=lambda interaction: float(interaction["value"]))
    return [alias for i in ordered for alias in i["encoders"] if alias != entry["encoder"]]
