"""Sections about the run as a whole: provenance, similarity of encoders, cost, training, limits.

Handed results; hands on sections.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from analysis import evidence_tables, figures, matrix_figures
from analysis.blocks import Block, Cell, Group, Section, Table
from analysis.comparison_figures import front_figure
from analysis.drawing import Drawing
from analysis.sentences import front_lines, limit_lines
from analysis.tables import count
from analysis.words import metric_title, number, short, title_of

SIMILARITIES = {"cka": "debiased linear CKA", "mutual_knn": "mutual nearest neighbours"}


def provenance(results: dict[str, Any]) -> Section:
    """What was evaluated, with which settings, where."""
    record = results["provenance"]
    flat = [*_flatten("config", record["config"]), *_flatten("environment", record["environment"])]
    rows = [[Cell(short(key)), Cell(short(value, longest=160))] for key, value in flat]
    data = [
        [
            Cell(title_of(name)),
            Cell(short(task["split"])),
            Cell(metric_title(task["metric"])),
            count(task["n"]),
            count(task["images"]),
            count(sum(task.get("excluded_images", {}).values())),
            Cell(f"{number(task['chance'], scale=100.0)}\u00a0%", task["chance"]),
            Cell(", ".join(map(str, task["seeds"]))),
        ]
        for name, task in results["tasks"].items()
    ]
    head = ("task", "split", "metric", "examples", "images", "images left out", "chance", "seeds")
    found = Table("data", "What was evaluated", head, data, shown=True)
    made = Table("provenance", "Settings and environment", ("what", "value"), rows)
    return Section("provenance", "Provenance", [results["interval_note"]], [Group("", [], [found, made])])


def _flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _flatten(f"{prefix}.{key}", inner)]
    return [(prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def similarity(results: dict[str, Any]) -> Section:
    """How alike the representations are, with the level that unrelated ones would show."""
    found, encoders = results["similarity"], results["encoders"]
    lead = [
        "Debiased linear CKA compares representations: 0 is expected for unrelated ones, 1 means the same space. "
        "Mutual nearest neighbours are the share of an image's neighbours that two encoders agree on; the null level "
        "is what unrelated ones would share. Similar spaces need not make similar errors, as the last figure shows."
    ]
    lines: list[str] = []
    drawn: list[Drawing | None] = []
    made: list[Table | None] = []
    for key, title in SIMILARITIES.items():
        drawn.append(matrix_figures.similarity_figure(found, encoders, key=key, title=title))
        made.append(evidence_tables.similarity_table(found, key, title.capitalize() if key != "cka" else title))
        if not isinstance(found.get(key), list):
            lines.append(f"Not run: {title} ({found.get(key, {}).get('not_run', 'not in similarity.json')}).")
    blocks = [*drawn, matrix_figures.space_figure(results), *made]
    return Section("similarity", "Similarity", lead, [Group("", lines, _there(blocks))])


def cost(results: dict[str, Any]) -> Section:
    """What encoders cost, and which coalitions are worth it."""
    lead = [
        "What each encoder costs on the machine that ran this, and every coalition's value against the sum over its "
        "encoders (the fusion model's own cost, which grows with its tokens, is not in it). The line is the front: "
        "nothing cheaper is as good. Single encoders are orange."
    ]
    groups = [Group("", [], [evidence_tables.cost_table(results["cost"])])]
    for name, task in results["tasks"].items():
        drawn = front_figure(name, task, results["cost"])
        table = evidence_tables.front_table(name, task, results["cost"])
        groups.append(Group(title_of(name), front_lines(task, results["cost"]), _there([drawn, table])))
    return Section("cost", "Cost", lead, groups)


def training(results: dict[str, Any]) -> Section:
    """How long each model was trained."""
    rows = [
        [
            Cell(short(f"{r['model']} ({r['mode']}, seed {r['seed']})")),
            count(r["steps"] or 0),
            count(r["examples_seen"] or 0),
            Cell("yes" if r["converged"] else "no"),
        ]
        for r in results["training"]
    ]
    if not rows:
        return Section("training", "Training", ["The run folder holds no training records."], [])
    head = ("model", "steps", "examples seen", "moved by at most 1 pt over the last fifth")
    table = Table("training-models", "Trained models", head, rows, shown=True)
    blocks = _there([figures.training_figure(results), table])
    lead = ["Steps seen, and whether the validation score had stopped rising."]
    return Section("training", "Training", lead, [Group("", [], blocks)])


def limits(results: dict[str, Any]) -> Section:
    """What bounds everything on the page, and what was not run."""
    table = evidence_tables.not_run_table(results)
    groups = [Group("", [], [table])] if table is not None else []
    return Section("limits", "Limits", limit_lines(results), groups)


def _there(blocks: Sequence[Block | None]) -> list[Block]:
    """Without what there is nothing to show of."""
    return [block for block in blocks if block is not None]
