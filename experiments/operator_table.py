"""The table of fusion operators: size, time of a step, and what all encoders together achieve on each task.

Handed the folders of finished runs that differ in their operator alone; hands on a page of Markdown. Every figure is
read from `results.json`, `environment.json` or a training record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from analysis.leaves import is_run
from analysis.run_files import read_json
from analysis.words import METRIC_TITLES, compact, number, title_of

FIRST = ("operator", "parameters", "step, ms")
BUSY = 1.2
"""Time on the clock ÷ processor time from which on a step of one thread was kept waiting."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one operator's run says.

    Attributes:
        parameters: trainable ones, of the largest of its models.
        step_ms: mean over its models of the median step; None where no step was timed.
        waited: a step's time on the clock ÷ its processor time; well above 1 where other work had the processors.
    """

    results: Mapping[str, Any]
    environment: Mapping[str, Any]
    parameters: int
    step_ms: float | None
    waited: float

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """Results by task."""
        found: Mapping[str, Mapping[str, Any]] = self.results["tasks"]
        return found


def measured(folder: Path) -> Measured:
    """Reads a run folder. Raises RunFolderError."""
    results = read_json(folder / "results.json", needed=("tasks",))
    environment = read_json(folder / "environment.json")
    records = [read_json(path) for path in sorted((folder / "train").glob("*.json"))]
    whole = "+".join(results["encoders"])
    table = [record for record in records if record.get("kind") in ("masked", "retrained")]
    main = [record for record in table if record["kind"] == "masked" or record.get("of") == whole]
    # On a CPU processor time, which other work on the machine disturbs less.
    clock = "processor" if environment["device"] == "cpu" else "wall"
    times = [record["step_ms"] for record in main if record.get("step_ms")]
    largest = max(int(record["parameters"]) for record in main)
    step_ms = mean(one[clock] for one in times) if times else None
    waited = max((one["wall"] / max(one["processor"], 1e-3) for one in times), default=0.0)
    return Measured(results, environment, largest, step_ms, waited)


def page(folders: Mapping[str, Path], *, command: str) -> tuple[str, str]:
    """The page, and the table in it.

    Args:
        folders: of each operator's run; times are compared with the first one's.
        command: that made them.
    """
    found = {operator: measured(folder) for operator, folder in folders.items()}
    table = "\n".join(operator_rows(found))
    text = (
        "# Fusion operators on the embedded world\n\n"
        f"{_setting(next(iter(found.values())))}{_disturbed(found)} Scores are those of all encoders together on the"
        " evaluated split, in %, with 95 % intervals; each is of one operator's score, none of a difference. **Bold**:"
        " above what the operator achieves without encoders (in retrieval chance), with an interval of the gain that"
        f" excludes zero. What the operators do is in [fusion.md](fusion.md). Made by `{command}`.\n\n"
        f"{table}\n\n" + "\n".join(task_rows(next(iter(found.values())))) + "\n"
    )
    return text, table


def _setting(one: Measured) -> str:
    """What the runs have in common: encoders, training, machine."""
    config, environment = one.results["provenance"]["config"], one.environment
    train, cores = config["train"], environment.get("cores", "?")
    steps = sorted({task["steps"] for task in one.tasks.values() if isinstance(task["steps"], int)})
    models = "one model for all tasks" if train["joint"] else "a model a task"
    seeds = ", ".join(str(seed) for seed in config["seeds"])
    device = environment["device"]
    clock = "processor time" if device == "cpu" else "time on the clock"
    return (
        f"Encoders {', '.join(one.results['encoders'])}; {models}, {' or '.join(f'{n:,}' for n in steps)} steps of"
        f" {train['batch_size']} examples, seed {seeds}; {device}, {environment['threads']} of {cores} cores, torch"
        f" {environment['packages']['torch']}. A step is its median {clock}, with VE-dropout."
    )


def _disturbed(found: Mapping[str, Measured]) -> str:
    """A sentence where steps were kept waiting."""
    if any(one.environment["device"] != "cpu" for one in found.values()):
        return ""
    most, least = (choose(one.waited for one in found.values()) for choose in (max, min))
    if most < BUSY:
        return ""
    range_ = f"{number(least)} to {number(most)}"
    return f" Other work had the processors meanwhile: steps took {range_} times that on the clock."


def operator_rows(found: Mapping[str, Measured]) -> list[str]:
    """Markdown: a row an operator, a column a task."""
    reference_name, reference = next(iter(found.items()))
    head = [*FIRST, f"÷ {reference_name}", *(title_of(task) for task in reference.tasks)]
    rows = []
    for operator, one in found.items():
        ratio = one.step_ms / reference.step_ms if one.step_ms and reference.step_ms else None
        cost = [f"{one.parameters:,}", _plain(one.step_ms, 0), _plain(ratio, 2)]
        rows.append([f"`{operator}`", *cost, *map(_score, one.tasks.values())])
    return _table(head, rows)


def task_rows(one: Measured) -> list[str]:
    """Markdown: what the scores are to be read against."""
    rows = [
        [
            title_of(name),
            METRIC_TITLES.get(task["metric"], task["metric"]),
            f"{task['n']:,}",
            f"{task['images']:,}",
            number(task["chance"], scale=100),
        ]
        for name, task in one.tasks.items()
    ]
    return _table(["task", "metric", "n", "images", "chance, %"], rows)


def _score(task: Mapping[str, Any]) -> str:
    """All encoders together, in bold where they achieve something."""
    text, gain = compact(task["coalitions"][-1]), task["gain_over_floor"]
    return f"**{text}**" if is_run(gain) and gain["ci95"][0] > 0 else text


def _plain(value: float | None, digits: int) -> str:
    return "not timed" if value is None else number(value, digits=digits)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
