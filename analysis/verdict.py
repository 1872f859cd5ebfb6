"""From numbers to grades: what may be claimed about each encoder, and about all of them together.

Handed the paired leave-one-out gain of each encoder with its p-value and the task's comparisons with its controls;
hands on grades, what keeps them from being higher, and the claim of complementarity. A model that does not beat its
floor says nothing about its encoders, least of all that they are redundant. Grades: `established` (needs three seeds,
removals that agree and gains over every control), `suggestive`, `undetermined`, `redundant` (the interval lies within
the equivalence margin) and `harmful`. p-values are corrected after Holm: those of encoders over all encoders and tasks
of a run, those of controls over all its comparisons with controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest  # type: ignore[import-untyped]

from analysis.controls import finish_claim
from analysis.image_use import MARGIN
from analysis.leaves import Leaf, is_run
from analysis.power import LEVEL

Grade = Literal["established", "suggestive", "undetermined", "redundant", "harmful"]
Finding = Literal["equivalent", "undetermined", "gain", "loss"]

SEEDS_TO_ESTABLISH = 3

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


def finding(difference: Leaf, p_holm: float) -> Finding:
    """What a paired difference shows; the margin is asked first, then evidence, then direction."""
    low, high = difference["ci95"]
    if -MARGIN <= low and high <= MARGIN:
        return "equivalent"
    if p_holm >= LEVEL or low <= 0 <= high:
        return "undetermined"
    return "gain" if low > 0 else "loss"


def grade(gain: Leaf, p_holm: float, lacking: Sequence[str]) -> Grade:
    """The grade of one encoder from its paired gain; undetermined where the model learned nothing."""
    if not is_run(gain) or UNLEARNED in lacking:
        return "undetermined"
    grades: dict[Finding, Grade] = {
        "equivalent": "redundant",
        "undetermined": "undetermined",
        "loss": "harmful",
        "gain": "suggestive" if lacking else "established",
    }
    return grades[finding(gain, p_holm)]


def finish_verdicts(tasks: dict[str, dict[str, Any]], *, num_resamples: int) -> None:
    """Fills in corrected p-values, claims, grades and actions over all tasks of a run, in place."""
    comparisons = [one for task in tasks.values() for one in task["complementarity"]["comparisons"]]
    for one, p_holm in zip(comparisons, holm([one["p"] for one in comparisons]), strict=True):
        one["p_holm"] = round(p_holm, 9)
    for task in tasks.values():
        finish_claim(task["complementarity"])
    entries = [(task, entry) for task in tasks.values() for entry in task["verdict"]]
    corrected = holm([entry["p"] for _, entry in entries])
    for (task, entry), p_holm in zip(entries, corrected, strict=True):
        entry["lacking"] = [*_lacking_of_task(task), *entry["lacking"], *_too_few(task, entries, num_resamples)]
        entry["p_holm"] = round(p_holm, 9)
        entry["grade"] = grade(entry["gain"], p_holm, entry["lacking"])
        entry["action"] = UNLEARNED_ACTION if UNLEARNED in entry["lacking"] else ACTIONS[entry["grade"]]
        entry["comparisons"] = len(entries)
        entry["replaceable_by"] = _partners(entry, task["interaction"])


def _lacking_of_task(task: dict[str, Any]) -> list[str]:
    """What keeps every encoder of a task from the grade `established`; empty when nothing does."""
    lacking = []
    if len(task["seeds"]) < SEEDS_TO_ESTABLISH:
        lacking.append(f"{len(task['seeds'])} of at least {SEEDS_TO_ESTABLISH} seeds")
    lacking += task["complementarity"]["lacking"]
    if task["image_use"].get("state") == "image-blind":
        lacking.append("the evaluation does not look at the image")
    if not (is_run(task["gain_over_floor"]) and task["gain_over_floor"]["ci95"][0] > 0):
        lacking.append(UNLEARNED)
    return lacking


def _too_few(task: dict[str, Any], entries: Sequence[Any], num_resamples: int) -> list[str]:
    """With one seed the smallest p is 1 / (resamples + 1), which Holm's correction may lift above the level."""
    if len(task["seeds"]) > 1 or len(entries) / (num_resamples + 1) < LEVEL:
        return []
    return [f"{num_resamples} resamples, too few for {len(entries)} comparisons"]


def _partners(entry: dict[str, Any], interactions: list[dict[str, Any]]) -> list[str]:
    """Encoders whose interaction with this one is negative beyond the margin: they share what they know."""
    mine = [
        i for i in interactions if is_run(i) and entry["encoder"] in i["encoders"] and i["ci95"][1] < -MARGIN
    ]
    ordered = sorted(mine, key=lambda interaction: float(interaction["value"]))
    return [alias for i in ordered for alias in i["encoders"] if alias != entry["encoder"]]
