"""Several finished runs side by side: fusion operators, encoders or seeds.

Handed run folders with their results; hands on a dictionary of leaves, as results.json holds them. A run's numbers are
its own; what one run has over another is computed from their stored answers under the same resampled images, so it is
paired, and only where both answered the same examples. The first run is the one that all others are compared with;
p-values are corrected after Holm over all comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.answers import CellName, TaskAnswers, load_answers
from analysis.bootstrap import Resampler
from analysis.coalition_values import coalition_name
from analysis.draws import Draws
from analysis.fronts import COSTS, cost_of_coalition
from analysis.image_use import MARGIN
from analysis.leaves import Leaf, is_run, leaf, not_run
from analysis.metric_values import influence_of, metric_statistic
from analysis.results import NUM_RESAMPLES
from analysis.verdict import Finding, finding, holm

Outcome = Literal["better", "worse", "equivalent", "undetermined", "not compared"]

ACTIONS: dict[Outcome, str] = {
    "better": "prefer it to the first run",
    "worse": "prefer the first run",
    "equivalent": "either; take the cheaper one",
    "undetermined": "undecided: evaluate more examples or seeds",
    "not compared": "compare runs of the same examples and as many seeds",
}
OWN = ("value", "gain_over_floor", "gain_over_best_single")


def leaderboard(
    runs: Sequence[tuple[Path, Mapping[str, Any]]], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Everything that is known about several runs together.

    Args:
        runs: folders with their results, the one to compare with first.

    Raises:
        RunFolderError: a folder's answers cannot be read.
    """
    labels = _labels([str(results["run"]) for _, results in runs])
    answers = [load_answers(folder).evaluation for folder, _ in runs]
    names = dict.fromkeys(name for _, results in runs for name in results["tasks"])
    tasks = {}
    for name in names:
        having = [place for place, (_, results) in enumerate(runs) if name in results["tasks"]]
        found = [(runs[place][1], answers[place][name]) for place in having]
        entries = _entries(name, found, num_resamples=num_resamples, seed=seed)
        labelled = [{"run": labels[place], **entry} for place, entry in zip(having, entries, strict=True)]
        tasks[name] = {"metric": found[0][0]["tasks"][name]["metric"], "first": labelled[0]["run"], "runs": labelled}
    _grade(tasks)
    return {
        "schema": 1,
        "runs": [_run(label, results) for label, (_, results) in zip(labels, runs, strict=True)],
        "tasks": tasks,
        "statistics": {"resamples": num_resamples, "seed": seed, "equivalence_margin": MARGIN},
    }


def _labels(names: Sequence[str]) -> list[str]:
    """The runs' names, numbered where one occurs again."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _run(label: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run apart, and what its encoders cost together."""
    config = results["provenance"]["config"]
    fusion = config.get("fusion")
    prices = {key: cost_of_coalition(results["cost"], results["encoders"], key) for key in COSTS}
    return {
        "run": label,
        "operator": fusion.get("operator") if isinstance(fusion, Mapping) else None,
        "encoders": list(results["encoders"]),
        "seeds": sorted({seed for task in results["tasks"].values() for seed in task["seeds"]}),
        "cost": {key: not_run("not measured") if price is None else price for key, price in prices.items()},
    }


def _entries(
    name: str, found: Sequence[tuple[Mapping[str, Any], TaskAnswers]], *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """One entry a run: its own values, and what it has over the first."""
    first = found[0][1]
    resampler = Resampler(name, num_clusters=first.rows.num_clusters, num_resamples=num_resamples, seed=seed)
    draws = [_draws(results, answers, first, resampler) for results, answers in found]
    entries = []
    for place, (results, answers) in enumerate(found):
        task = results["tasks"][name]
        entry: dict[str, Any] = {
            "value": _leaf_of(task["coalitions"][-1]),
            **{key: task[key] for key in OWN[1:]},
            "shapley": task["shapley"],
            "grades": {one["encoder"]: one["grade"] for one in task["verdict"]},
        }
        if place:
            entry |= _against(draws[place], draws[0], n=len(answers.rows.ids))
        entries.append(entry)
    return entries


def _leaf_of(entry: Mapping[str, Any]) -> Leaf:
    return {key: entry[key] for key in ("value", "ci95", "n", "chance", "not_run") if key in entry}


def _draws(
    results: Mapping[str, Any], answers: TaskAnswers, first: TaskAnswers, resampler: Resampler
) -> Draws | str:
    """The value of all of a run's encoders, or why it cannot be set beside the first run's."""
    rows, others = answers.rows, first.rows
    same = all(np.array_equal(getattr(rows, key), getattr(others, key)) for key in ("ids", "directions", "targets"))
    if not (same and np.array_equal(rows.clusters, others.clusters)):
        return "answered other examples than the first run"
    if len(answers.seeds) != len(first.seeds):
        return f"{len(answers.seeds)} seeds, the first run has {len(first.seeds)}"
    metric = results["tasks"][answers.task]["metric"]
    whole = results["tasks"][answers.task]["coalitions"][-1]
    cells = answers.across_seeds(CellName(whole["mode"], whole["removal"], coalition_name(results["encoders"])))
    assert cells is not None, "results hold this coalition"
    statistics = [metric_statistic(metric, rows, [cell]) for cell in cells]
    return resampler.draw(statistics, influence=influence_of(metric, rows))


def _against(mine: Draws | str, first: Draws | str, *, n: int) -> dict[str, Any]:
    """The paired difference, with its p before correction."""
    for one in (mine, first):
        if isinstance(one, str):
            return {"difference": not_run(one)}
    assert isinstance(mine, Draws) and isinstance(first, Draws)
    difference = mine.minus(first)
    return {"difference": leaf(difference, 0, n=n), "p": round(difference.p_value(0), 9)}


def _grade(tasks: Mapping[str, Any]) -> None:
    """Corrects p-values over all comparisons and says what each difference shows, in place."""
    entries = [entry for task in tasks.values() for entry in task["runs"] if "difference" in entry]
    tested = [entry for entry in entries if "p" in entry]
    for entry, corrected in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = round(corrected, 9)
    for entry in entries:
        entry["outcome"] = outcome(entry["difference"], entry.get("p_holm", 1.0))
        entry["action"] = ACTIONS[entry["outcome"]]


def outcome(difference: Leaf, p_holm: float) -> Outcome:
    """What a paired difference from the first run shows."""
    if not is_run(difference):
        return "not compared"
    outcomes: dict[Finding, Outcome] = {
        "equivalent": "equivalent",
        "undetermined": "undetermined",
        "gain": "better",
        "loss": "worse",
    }
    return outcomes[finding(difference, p_holm)]
