"""Tables of the report, as rows of cells that know how they are sorted.

Handed results of one task; hands on `Table`s which the HTML and Markdown templates render alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.leaves import Leaf, is_run
from analysis.words import coalition_words, number, percent, points, short, with_interval


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number it is sorted by (None: as text)."""

    text: str
    sort: int | float | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; the first column names the row."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = "table"


def share(leaf: Leaf) -> Cell:
    """A share in percent with its interval."""
    return Cell(percent(leaf), leaf["value"]) if is_run(leaf) else _absent(leaf)


def difference(leaf: Leaf) -> Cell:
    """A difference in points with its interval."""
    return Cell(points(leaf), leaf["value"]) if is_run(leaf) else _absent(leaf)


def plain(leaf: Leaf, *, digits: int = 2) -> Cell:
    """A coefficient with its interval."""
    return Cell(with_interval(leaf, digits=digits), leaf["value"]) if is_run(leaf) else _absent(leaf)


def count(value: int | float | Leaf, *, digits: int = 0) -> Cell:
    """A plain quantity, such as a number of parameters."""
    return Cell(f"{value:,.{digits}f}", float(value)) if isinstance(value, int | float) else _absent(value)


def _absent(leaf: Leaf) -> Cell:
    return Cell(f"not run: {short(leaf['not_run'], longest=90)}")


BASELINES = {"chance": "(guessing)", "majority": "(most frequent answer)", "prior": "(most frequent of its type)"}
"""What one gets without a model, as it is named among the coalitions."""


def coalition_table(name: str, task: dict[str, Any]) -> Table:
    """Every coalition's value, after what one gets without a model."""
    rows = [
        [Cell(words), Cell(percent({"value": task[key], "ci95": None, "n": task["n"]}), task[key]), count(task["n"])]
        for key, words in BASELINES.items()
        if task.get(key) is not None
    ]
    rows += [
        [Cell(coalition_words(entry["encoders"])), share(entry), count(entry.get("n", 0))]
        for entry in task["coalitions"]
    ]
    title = "Every coalition" if task["coalitions"][-1]["mode"] == "masked" else "Every coalition, a model each"
    return Table(f"{name}-coalitions", title, ("encoders", task["metric"], "n"), rows)


def contribution_table(name: str, task: dict[str, Any]) -> Table:
    """Contributions of each encoder."""
    head = ("encoder", "Shapley", "leave-one-out", "solo over none", "CUR", "rescues", "harms")
    rows = [
        [
            Cell(alias),
            *(difference(task[key][alias]) for key in ("shapley", "leave_one_out", "solo")),
            plain(task["cur"][alias]),
            *(share(_flip(task["flips"], alias, key)) for key in ("rescue", "harm")),
        ]
        for alias in task["shapley"]
    ]
    return Table(f"{name}-contributions", "Contributions", head, rows)


def _flip(flips: dict[str, Any], alias: str, key: str) -> Leaf:
    leaf: Leaf = flips if "not_run" in flips else flips[alias][key]
    return leaf


def interaction_table(name: str, task: dict[str, Any]) -> Table:
    """Pairwise Shapley interactions."""
    rows = [[Cell(coalition_words(entry["encoders"])), difference(entry)] for entry in task["interaction"]]
    return Table(f"{name}-interactions", "Pairwise interactions", ("encoders", "interaction (SII)"), rows)


def overlap_table(name: str, task: dict[str, Any]) -> Table:
    """Whose errors overlap."""
    head = ("encoders", "union", "disagreement", "double fault", "Q", "error consistency κ")
    rows = [
        [
            Cell(coalition_words(entry["encoders"])),
            *(share(entry[key]) for key in ("union", "disagreement", "double_fault")),
            *(plain(entry[key]) for key in ("q", "error_consistency")),
        ]
        for entry in task["overlap"]
    ]
    return Table(f"{name}-errors", "Errors of pairs, each encoder alone", head, rows)


def control_table(name: str, task: dict[str, Any]) -> Table:
    """Controls, and the gain of all encoders over each."""
    known = {**task["controls"], **task["other_modes"]}
    gains = task["control_gains"]
    rows = [
        [Cell(label), share(leaf), difference(gains[label]) if label in gains else Cell("not run")]
        for label, leaf in known.items()
    ]
    return Table(f"{name}-controls", "Controls", ("control", task["metric"], "all encoders gain"), rows)


def secondary_table(name: str, task: dict[str, Any]) -> Table:
    """Secondary metrics of all encoders together."""
    rows = [
        [Cell(label), plain(leaf, digits=1) if "unit" in leaf else share(leaf)]
        for label, leaf in task["secondary"].items()
    ]
    return Table(f"{name}-secondary", "Secondary metrics, all encoders", ("metric", "value"), rows)


def slice_table(name: str, column: str, values: dict[str, Any], encoders: Sequence[str]) -> Table:
    """Shapley values within each slice of one column."""
    head = (short(column), "n", "all encoders", "none", *(f"{alias} Shapley" for alias in encoders))
    rows = []
    for value, found in values.items():
        if "not_run" in found:
            missing = [_absent(found), *(Cell("") for _ in range(len(encoders) + 1))]
            rows.append([Cell(short(value)), count(found["n"]), *missing])
            continue
        shapley = [difference(found["shapley"][alias]) for alias in encoders]
        rows.append(
            [Cell(short(value)), count(found["n"]), share(found["full"]), share(found["empty"]), *shapley]
        )
    return Table(f"{name}-slices-{short(column)}", f"By {short(column)}", head, rows)


def attention_table(name: str, task: dict[str, Any]) -> Table:
    """Attention beside what ablation shows."""
    rows = []
    for alias, entry in task["attention"].items():
        token_share = entry["token_share"]
        tokens = (
            Cell(f"{number(token_share, scale=100.0)} %", token_share)
            if isinstance(token_share, int | float)
            else None
        )
        shapley = task["shapley"][alias]
        rows.append(
            [
                Cell(alias),
                share(entry["mass"]),
                tokens or Cell("not run"),
                plain(entry["lift"]),
                difference(shapley),
            ]
        )
    head = ("encoder", "attention mass", "token share", "lift", "Shapley (ablation)")
    return Table(f"{name}-attention", "Attention of all encoders together", head, rows)


def cka_table(similarity: dict[str, Any]) -> Table:
    """Similarity of every pair."""
    rows = [[Cell(coalition_words(e["encoders"])), plain(e), count(e.get("n", 0))] for e in similarity["cka"]]
    return Table("cka", "Debiased linear CKA", ("encoders", "CKA (95 %)", "images"), rows)


def cost_table(cost: dict[str, Any]) -> Table:
    """What each encoder costs."""
    rows = [
        [
            Cell(alias),
            count(entry["params"]),
            count(entry["gflops"], digits=3),
            count(entry["tokens"]),
            count(entry["ms_per_image"], digits=2),
        ]
        for alias, entry in cost.items()
    ]
    return Table(
        "cost", "Cost", ("encoder", "parameters", "GFLOPs an image", "tokens an image", "ms an image"), rows
    )
