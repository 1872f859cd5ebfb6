"""The sections of the report, in order, from results.json alone.

Handed results; hands on sections of paragraphs, figures and tables that the HTML and the Markdown template
render alike, so that both say the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import figures, tables
from analysis.controls import CONTROLS
from analysis.drawing import Drawing
from analysis.leaves import is_run
from analysis.tables import Cell, Table
from analysis.words import (
    attention_flag_words,
    claim_words,
    headline,
    image_use_words,
    is_retrained,
    percent,
    plain_words,
    removal_words,
    short,
    title_of,
    training_words,
    verdict_sentence,
)

Block = Drawing | Table


@dataclass(frozen=True)
class Group:
    """Blocks under one heading, most often a task."""

    title: str
    lines: Sequence[str]
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verdict:
    """A task's verdict box: the headline, and per encoder grade, sentence and action."""

    task: str
    title: str
    headline: str
    training: str
    entries: Sequence[dict[str, str]]
    lacking: str


@dataclass(frozen=True)
class Section:
    """One numbered part of the report."""

    key: str
    title: str
    lead: Sequence[str]
    groups: Sequence[Group]


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """One box per task."""
    boxes = []
    for name, task in results["tasks"].items():
        entries = [
            {
                "encoder": e["encoder"],
                "grade": e["grade"],
                "text": verdict_sentence(e, task["interaction"]),
                "action": e["action"],
            }
            for e in task["verdict"]
        ]
        lists = [entry["lacking"] for entry in task["verdict"]]
        lacking = [reason for reason in lists[0] if all(reason in others for others in lists)] if lists else []
        reason = f"Nothing here is graded established: {'; '.join(lacking)}." if lacking else ""
        boxes.append(Verdict(name, title_of(name), headline(task), training_words(task), entries, reason))
    return boxes


def sections(results: dict[str, Any]) -> list[Section]:
    """All sections after the verdicts."""
    return [
        _provenance(results),
        _scores(results),
        _contributions(results),
        _interactions(results),
        _per_task(
            results,
            "errors",
            "Errors",
            [
                "Pairs of encoders, each alone. Union: either is right. Double fault: both are wrong. "
                "Error consistency κ (the figure) is 0 for independent errors and 1 for identical ones. "
                "Any second guesser raises the union, which shows no complementarity by itself. Convention: "
                + next(iter(results["tasks"].values()))["overlap_note"]
                + "."
            ],
            lambda name, task: [
                figures.error_figure(name, task, results["encoders"]) if task["overlap"] else None,
                tables.overlap_table(name, task),
            ],
        ),
        _per_task(
            results,
            "controls",
            "Controls",
            [
                "Blind is a separate model trained without images; shuffled pairs each text with another "
                "image. The others ask whether more of the same would have done as well; what was not run "
                "is named."
            ],
            lambda name, task: [tables.control_table(name, task)],
            lambda task: [claim_words(task), image_use_words(task)],
        ),
        _slices(results),
        _attention(results),
        _similarity(results),
        Section(
            "cost",
            "Cost",
            ["What each encoder costs on the machine that ran this."],
            [Group("", [], [tables.cost_table(results["cost"])])],
        ),
        _training(results),
        _limits(results),
    ]


def _per_task(
    results: dict[str, Any],
    key: str,
    title: str,
    lead: Sequence[str],
    blocks: Callable[[str, dict[str, Any]], Sequence[Block | None]],
    lines: Callable[[dict[str, Any]], Sequence[str]] = lambda task: (),
) -> Section:
    groups = [
        Group(title_of(name), lines(task), [block for block in blocks(name, task) if block is not None])
        for name, task in results["tasks"].items()
    ]
    return Section(key, title, lead, [group for group in groups if group.blocks])


def _provenance(results: dict[str, Any]) -> Section:
    record = results["provenance"]
    flat = [*_flatten("config", record["config"]), *_flatten("environment", record["environment"])]
    rows = [[Cell(short(key)), Cell(short(value, longest=160))] for key, value in flat]
    data = [
        [
            Cell(title_of(name)),
            Cell(short(task["split"])),
            tables.count(task["n"]),
            tables.count(task["images"]),
            Cell(", ".join(map(str, task["seeds"]))),
        ]
        for name, task in results["tasks"].items()
    ]
    found = Table("data", "What was evaluated", ("task", "split", "examples", "images", "seeds"), data)
    made = Table("provenance", "Settings and environment", ("what", "value"), rows)
    return Section("provenance", "Provenance", [results["interval_note"]], [Group("", [], [found, made])])


def _flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flatten(f"{prefix}.{key}", inner)]
    return [(prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _scores(results: dict[str, Any]) -> Section:
    groups = []
    for name, task in results["tasks"].items():
        blocks: list[Block] = [figures.coalition_figure(name, task, results["encoders"])]
        blocks.append(tables.coalition_table(name, task))
        if task["secondary"]:
            blocks.append(tables.secondary_table(name, task))
        groups.append(Group(title_of(name), [], blocks))
    lead = [
        "Each column is one coalition of encoders; dots below say who is present, single encoders are "
        "orange. The floor is the better of the text-only coalition and the blind model; the best single "
        "encoder was chosen on validation. Bars are 95 % intervals."
    ]
    if is_retrained(results):
        lead.append(removal_words(results))
    return Section("scores", "Scores", lead, groups)


def _contributions(results: dict[str, Any]) -> Section:
    lead = [
        "Shapley shares out the whole gain over no encoders; leave-one-out is what is lost when only this "
        "one is dropped, and is zero for both of two duplicates; solo is what it adds when alone. Rescues "
        "and harms are the examples that its presence turns right or wrong."
    ]
    return _per_task(
        results,
        "contributions",
        "Contributions",
        lead,
        lambda name, task: [
            figures.contribution_figure(name, task, results["encoders"]),
            tables.contribution_table(name, task),
        ],
    )


def _interactions(results: dict[str, Any]) -> Section:
    groups = []
    for name, task in results["tasks"].items():
        line = (
            f"Interactions explain {percent(task['interaction_share'])} of the variance between coalitions."
            if is_run(task["interaction_share"])
            else f"Share of interactions: {task['interaction_share']['not_run']}."
        )
        if task["interaction"]:
            blocks: list[Block] = [figures.interaction_figure(name, task, results["encoders"])]
            groups.append(Group(title_of(name), [line], [*blocks, tables.interaction_table(name, task)]))
    lead = [
        "Pairwise Shapley interaction in points: negative means that two encoders know the same, positive "
        "that they achieve more together than apart. Near the ceiling of a metric every pair looks "
        "redundant."
    ]
    return Section("interactions", "Interactions", lead, groups)


def _slices(results: dict[str, Any]) -> Section:
    encoders = results["encoders"]

    def blocks(name: str, task: dict[str, Any]) -> list[Block | None]:
        made = [
            tables.slice_table(name, column, values, encoders) for column, values in task["slices"].items()
        ]
        return [figures.slice_figure(name, task, encoders), *made]

    lead = [
        "Shapley value of each encoder in points within each part of the test set (n in brackets). These "
        "are many comparisons; results.json holds p-values corrected for false discovery."
    ]
    return _per_task(results, "slices", "Slices", lead, blocks)


def _attention(results: dict[str, Any]) -> Section:
    groups = []
    for name, task in results["tasks"].items():
        agreement = task["attention_vs_shapley"]
        line = f"Rank correlation of lift with Shapley value: {plain_words(agreement)}."
        lines = [line, *(attention_flag_words(flag) for flag in task["attention_flags"])]
        drawn = figures.attention_figure(name, task, results["encoders"])
        table = tables.attention_table(name, task)
        groups.append(Group(title_of(name), lines, [table] if drawn is None else [drawn, table]))
    lead = [
        "Warning: attention describes where the model looks; it does not say what the answer owes to it. An"
        " encoder can draw attention and add nothing. Judge by ablation; both stand side by side here. Lift"
        " is the share of the encoders' attention over the share of their tokens; 1 is indifference."
    ]
    return Section("attention", "Attention", lead, groups)


def _similarity(results: dict[str, Any]) -> Section:
    cka = results["similarity"]["cka"]
    if not isinstance(cka, list):
        return Section("similarity", "Similarity", [f"Not run: {cka['not_run']}."], [])
    drawn, table = figures.similarity_figure(results), tables.cka_table(results["similarity"])
    lead = [
        "Debiased linear CKA compares representations: 0 is expected for unrelated ones, 1 means the same "
        "space. Similar spaces need not make similar errors; see Errors."
    ]
    return Section(
        "similarity", "Similarity", lead, [Group("", [], [table] if drawn is None else [drawn, table])]
    )


def _training(results: dict[str, Any]) -> Section:
    rows = [
        [
            Cell(short(f"{r['model']} ({r['mode']}, seed {r['seed']})")),
            tables.count(r["steps"] or 0),
            tables.count(r["examples_seen"] or 0),
            Cell("yes" if r["converged"] else "no"),
        ]
        for r in results["training"]
    ]
    if not rows:
        return Section("training", "Training", ["The run folder holds no training records."], [])
    table = Table("training-models", "Trained models", ("model", "steps", "examples seen", "converged"), rows)
    drawn = figures.training_figure(results)
    lead = ["Steps seen, and whether the validation score had stopped rising."]
    return Section(
        "training", "Training", lead, [Group("", [], [table] if drawn is None else [drawn, table])]
    )


def _limits(results: dict[str, Any]) -> Section:
    unfinished = [title_of(name) for name, task in results["tasks"].items() if task["converged"] is not True]
    absent = [
        control
        for control in CONTROLS
        if any(control in task["complementarity"]["missing"] for task in results["tasks"].values())
    ]
    lines = [
        results["interval_note"],
        removal_words(results),
        "Equivalence margin for redundant: 1 point either way. p-values are corrected after Holm over all "
        "encoders and tasks of this run.",
    ]
    if unfinished:
        lines.append(f"Training had not converged, or is not known to have: {', '.join(unfinished)}.")
    left_out = [
        f"{title_of(name)} {sum(task['excluded_images'].values()):,}"
        for name, task in results["tasks"].items()
        if any(task.get("excluded_images", {}).values())
    ]
    if left_out:
        lines.append(f"Images left out with their examples, in all splits together: {', '.join(left_out)}.")
    if absent:
        lines.append(
            f"Controls not run on some task: {', '.join(absent)}. Without them nothing is established."
        )
    return Section("limits", "Limits", lines, [])
