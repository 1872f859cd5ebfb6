"""The page of one run, in order, from results.json alone.

Handed results; hands on a `Page`: a verdict box for each task, then the numbered sections.
"""

from __future__ import annotations

from typing import Any

from analysis import run_sections
from analysis.blocks import Cell, Page, Table, Verdict
from analysis.tables import share
from analysis.task_sections import task_sections
from analysis.words import (
    headline,
    image_use_words,
    points,
    short,
    title_of,
    training_words,
    verdict_sentence,
    world_lines,
)


def run_page(results: dict[str, Any]) -> Page:
    """Everything that is shown of a run."""
    encoders, tasks = results["encoders"], results["tasks"]
    seeds = sorted({seed for task in tasks.values() for seed in task["seeds"]})
    coalitions = max(len(task["coalitions"]) for task in tasks.values())
    return Page(
        title=f"Complementarity report: {short(results['run'])}",
        summary=(
            f"{len(encoders)} encoders ({', '.join(encoders)}), {len(tasks)} tasks, {coalitions} coalitions, "
            f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}. {results['interval_note']}"
        ),
        lead=[
            *world_lines(results),
            "For each task, what dropping one encoder costs, with its grade; brackets hold 95 % intervals. Grades: "
            "established, suggestive, undetermined, redundant, harmful."
        ],
        overview=_overview(results),
        sections=[
            run_sections.provenance(results),
            *task_sections(results),
            run_sections.similarity(results),
            run_sections.cost(results),
            run_sections.training(results),
            run_sections.limits(results),
        ],
        foot=(
            f"All numbers come from results.json beside this page ({results['statistics']['resamples']:,} resamples, "
            f"seed {results['statistics']['seed']}) and can be computed again from answers/; figures are also in "
            "figures/, as SVG and PNG. docs/report.md teaches how to read this page."
        ),
        verdicts=verdicts(results),
    )


def _overview(results: dict[str, Any]) -> Table:
    """Every grade at a glance, with the gain that it grades."""
    rows = []
    for name, task in results["tasks"].items():
        graded = {entry["encoder"]: entry for entry in task["verdict"]}
        cells = [
            Cell(f"{graded[alias]['grade']}: {points(graded[alias]['gain'])}", graded[alias]["gain"].get("value"))
            for alias in results["encoders"]
        ]
        rows.append([Cell(title_of(name)), share(task["coalitions"][-1]), *cells])
    return Table("verdict", "At a glance", ("task", "all encoders", *results["encoders"]), rows, shown=True)


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """One box per task."""
    boxes = []
    for name, task in results["tasks"].items():
        entries = [
            {
                "encoder": e["encoder"],
                "grade": e["grade"],
                "text": verdict_sentence(
                    e, task["interaction"], task["overlap"], may_be_ceiling="not_run" in task["logprob"]
                ),
                "action": e["action"],
            }
            for e in task["verdict"]
        ]
        boxes.append(Verdict(name, title_of(name), headline(task), entries, _notes(task)))
    return boxes


def _notes(task: dict[str, Any]) -> list[str]:
    """How long training was, what keeps every encoder from being established, and doubts about the evaluation."""
    notes = [training_words(task)]
    lists = [entry["lacking"] for entry in task["verdict"]]
    lacking = [reason for reason in lists[0] if all(reason in others for others in lists)] if lists else []
    if lacking:
        notes.append(f"Nothing here is graded established: {'; '.join(lacking)}.")
    if task["image_use"].get("state", "uses the image") != "uses the image":
        notes.append(image_use_words(task))
    return notes
