"""From numbers to grades: what may be claimed about each encoder, and about all of them together.

Handed the paired leave-one-out gain of each encoder with its p-value and the task's comparisons with its controls;
hands on grades, what keeps them from being higher, and the claim of complementarity. A model that is not shown to beat
its floor says nothing about its encoders, least of all that they are redundant. Grades: `established` (needs three
seeds, removals that agree and gains over every control), `suggestive`, `undetermined`, `redundant` (the interval lies
within the equivalence margin, and models retrained without it, if any, are not worse) and `harmful`. p-values are
corrected after Holm: those of encoders over all encoders and tasks of a run, those of controls over all its comparisons
with controls. Redundance is read from each encoder's own interval, without correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest  # type: ignore[import-untyped]

from analysis.controls import finish_claim
from analysis.image_use import MARGIN
from analysis.leaves import Leaf, is_run, not_run
from analysis.power import LEVEL
from analysis.removals import is_missed

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
MORE_SEEDS = "undecided: train more seeds before dropping it, more examples alone would not decide"
"""Where no number of examples finds a planned gain, as the seeds differ too much."""
MISSED = "models retrained without it are worse"
"""What keeps an encoder that one model does without from being redundant."""
UNLEARNED = "all encoders together do not beat the floor"
UNSHOWN = "all encoders together are not shown to beat the floor"
UNCOMPARED = "the gain of all encoders together over the floor is not known"
UNDECIDABLE = {
    UNLEARNED: "undecided: the model has not learned the task, train it longer or otherwise",
    UNSHOWN: "undecided: evaluate more examples or seeds, or train longer",
    UNCOMPARED: "undecided: evaluate examples on which the floor and all encoders have a value",
}
"""What tells nothing about single encoders -> what to do. Only the first says that the model learned nothing."""


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
    """The grade of one encoder from its paired gain; undetermined where all together are not above the floor."""
    if not is_run(gain) or undecidable(lacking):
        return "undetermined"
    grades: dict[Finding, Grade] = {
        "equivalent": "undetermined" if MISSED in lacking else "redundant",
        "undetermined": "undetermined",
        "loss": "harmful",
        "gain": "suggestive" if lacking else "established",
    }
    return grades[finding(gain, p_holm)]


def undecidable(lacking: Sequence[str]) -> str | None:
    """What of it tells nothing about single encoders."""
    return next((reason for reason in UNDECIDABLE if reason in lacking), None)


def finish_verdicts(tasks: dict[str, dict[str, Any]], *, num_resamples: int) -> None:
    """Fills in corrected p-values, claims, grades and actions over all tasks of a run, in place."""
    _correct([one for task in tasks.values() for one in task["complementarity"]["comparisons"]])
    for task in tasks.values():
        finish_claim(task["complementarity"])
    entries = [(task, entry) for task in tasks.values() for entry in task["verdict"]]
    compared = _correct([entry for _, entry in entries])
    for task, entry in entries:
        entry["lacking"] = [*_lacking_of_task(task), *entry["lacking"], *_too_few(task, entries, num_resamples)]
        if is_run(entry["gain"]) and finding(entry["gain"], entry["p_holm"]) == "equivalent":
            missed = is_missed(task["sensitivity"], entry["encoder"], margin=MARGIN)
            entry["lacking"] += [MISSED] if missed else []
        entry["grade"] = grade(entry["gain"], entry["p_holm"], entry["lacking"])
        entry["comparisons"] = compared
        entry["replaceable_by"] = _partners(entry, task)
    for task in tasks.values():
        _not_all(task)
    for task, entry in entries:
        entry["action"] = _action(entry, num_seeds=len(task["seeds"]))


def _action(entry: dict[str, Any], *, num_seeds: int) -> str:
    reason = undecidable(entry["lacking"])
    if reason is not None:
        return UNDECIDABLE[reason]
    if entry["grade"] == "redundant":
        others = [name for name in entry.get("together", {}).get("encoders", []) if name != entry["encoder"]]
        alone = f", but not together with {' or '.join(others)}" if others else ""
        confirm = "; confirm with more seeds" if num_seeds < SEEDS_TO_ESTABLISH else ""
        return ACTIONS["redundant"] + alone + confirm
    if entry["grade"] == "undetermined" and MISSED in entry["lacking"]:
        return f"undecided: {MISSED}"
    few_seeds = entry["grade"] == "undetermined" and is_run(entry["gain"]) and "not_run" in entry["needed"]
    return MORE_SEEDS if few_seeds else ACTIONS[entry["grade"]]


def _correct(comparisons: Sequence[dict[str, Any]]) -> int:
    """Fills in Holm's p, in place, and returns over how many; a gain that was not computed is no comparison."""
    tested = [one for one in comparisons if is_run(one["gain"])]
    for one in comparisons:
        one["p_holm"] = 1.0
    for one, p_holm in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = round(p_holm, 9)
    return len(tested)


def _not_all(task: dict[str, Any]) -> None:
    """Says, in place, where encoders may each be dropped but not all of them: duplicates stand in for one another."""
    redundant = [entry for entry in task["verdict"] if entry["grade"] == "redundant"]
    names = [entry["encoder"] for entry in redundant]
    rest = [entry["encoder"] for entry in task["verdict"] if entry["encoder"] not in names]
    unknown = not_run("that coalition was not evaluated")
    found = next((one for one in task["shortfall"] if one["encoders"] == rest), unknown)
    if len(names) < 2 or (is_run(found) and found["ci95"][1] <= MARGIN):
        return
    for entry in redundant:
        entry["together"] = {**found, "encoders": names}


def _lacking_of_task(task: dict[str, Any]) -> list[str]:
    """What keeps every encoder of a task from the grade `established`; empty when nothing does."""
    lacking = []
    if len(task["seeds"]) < SEEDS_TO_ESTABLISH:
        lacking.append(f"{len(task['seeds'])} of at least {SEEDS_TO_ESTABLISH} seeds")
    lacking += task["complementarity"]["lacking"]
    if task["image_use"].get("state") == "image-blind":
        lacking.append("the evaluation does not look at the image")
    gain = task["gain_over_floor"]
    if not is_run(gain):
        lacking.append(UNCOMPARED)
    elif gain["ci95"][0] <= 0:
        lacking.append(UNLEARNED if gain["ci95"][1] <= MARGIN else UNSHOWN)
    return lacking


def _too_few(task: dict[str, Any], entries: Sequence[Any], num_resamples: int) -> list[str]:
    """With one seed the smallest p is 1 / (resamples + 1), which Holm's correction may lift above the level."""
    if len(task["seeds"]) > 1 or len(entries) / (num_resamples + 1) < LEVEL:
        return []
    return [f"{num_resamples} resamples, too few for {len(entries)} comparisons"]


def _partners(entry: dict[str, Any], task: dict[str, Any]) -> list[str]:
    """Encoders whose interaction with this one is negative beyond the margin: they share what they know.

    In log-probability too, where that was computed: a metric near its ceiling makes any two look so.
    """
    of_metric_alone = task["logprob"].get("only_in_the_metric", [])
    mine = [
        i
        for i in task["interaction"]
        if is_run(i) and entry["encoder"] in i["encoders"] and i["ci95"][1] < -MARGIN
        if i["encoders"] not in of_metric_alone
    ]
    ordered = sorted(mine, key=lambda interaction: float(interaction["value"]))
    return [alias for i in ordered for alias in i["encoders"] if alias != entry["encoder"]]
