"""Cells from leaves, and the tables of what coalitions and encoders achieve.

Handed results of one task; hands on `Table`s. Tables of errors, controls and removals are in `evidence_tables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.blocks import Cell, Table
from analysis.leaves import Leaf, is_run
from analysis.words import coalition_words, metric_title, number, p_words, percent, points, short, with_interval

BASELINES = {"chance": "(guessing)", "majority": "(most frequent answer)", "prior": "(most frequent of its type)"}
"""What one gets without a model, as it is named among the coalitions."""


def share(leaf: Leaf) -> Cell:
    """A share in percent with its interval."""
    return Cell(percent(leaf), leaf["value"]) if is_run(leaf) else absent(leaf)


def difference(leaf: Leaf) -> Cell:
    """A difference in points with its interval."""
    return Cell(points(leaf), leaf["value"]) if is_run(leaf) else absent(leaf)


def plain(leaf: Leaf, *, digits: int = 2) -> Cell:
    """A coefficient with its interval."""
    return Cell(with_interval(leaf, digits=digits), leaf["value"]) if is_run(leaf) else absent(leaf)


def count(value: int | float | Leaf, *, digits: int = 0) -> Cell:
    """A plain quantity, such as a number of parameters."""
    return Cell(f"{value:,.{digits}f}", float(value)) if isinstance(value, int | float) else absent(value)


def absent(leaf: Leaf) -> Cell:
    """Why there is no number."""
    return Cell(f"not run: {short(leaf['not_run'], longest=90)}")


def p_value(value: float) -> Cell:
    """A p-value."""
    return Cell(p_words(value), value)


def coalition_table(name: str, task: dict[str, Any]) -> Table:
    """Every coalition's value, what it lacks of that of all encoders, and its mean log-probability.

    What one gets without a model comes first.
    """
    lacking = {tuple(entry["encoders"]): entry for entry in task["shortfall"]}
    nats = {} if "not_run" in task["logprob"] else {tuple(e["encoders"]): e for e in task["logprob"]["coalitions"]}
    last = ["log-probability (nats)", "n"] if nats else ["n"]
    head = ["encoders", metric_title(task["metric"]), "all encoders have more by", *last]
    unknown = [Cell("–")] * (2 if nats else 1)
    rows = [
        [Cell(words), share({"value": task[key], "ci95": None, "n": task["n"]}), *unknown, count(task["n"])]
        for key, words in BASELINES.items()
        if task.get(key) is not None
    ]
    for entry in task["coalitions"]:
        key = tuple(entry["encoders"])
        cells = [Cell(coalition_words(key)), share(entry), difference(lacking[key]) if key in lacking else Cell("–")]
        rows.append([*cells, *([plain(nats[key])] if nats else []), count(entry.get("n", 0))])
    title = "Every coalition" if task["coalitions"][-1]["mode"] == "masked" else "Every coalition, a model each"
    return Table(f"{name}-coalitions", title, head, rows)


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


def secondary_table(name: str, task: dict[str, Any]) -> Table:
    """Secondary metrics of all encoders together."""
    rows = [
        [Cell(label), plain(leaf, digits=1) if "unit" in leaf else share(leaf)]
        for label, leaf in task["secondary"].items()
    ]
    return Table(f"{name}-secondary", "Secondary metrics, all encoders", ("metric", "value"), rows)


def evidence_table(name: str, task: dict[str, Any]) -> Table:
    """What each grade rests on, and how many examples would decide."""
    head = (
        "encoder",
        "grade",
        "dropping it costs",
        "p (Holm)",
        "test",
        "detectable (pt)",
        "examples for a gain of 3 pt",
        "shares with",
        "what keeps it from established",
    )
    rows = [
        [
            Cell(entry["encoder"]),
            Cell(entry["grade"]),
            difference(entry["gain"]),
            p_value(entry["p_holm"]) if is_run(entry["gain"]) else Cell("–"),
            Cell(entry["p_method"]),
            count(100 * entry["detectable"], digits=1) if is_run(entry["gain"]) else Cell("not run"),
            count(entry["needed"].get("examples", entry["needed"])),
            Cell(", ".join(entry["replaceable_by"]) or "–"),
            Cell("; ".join(entry["lacking"]) or "nothing"),
        ]
        for entry in task["verdict"]
    ]
    return Table(f"{name}-evidence", "What the grades rest on", head, rows)


def logprob_table(name: str, task: dict[str, Any]) -> Table | None:
    """The same contributions in log-probability of the target."""
    nats = task["logprob"]
    if "not_run" in nats:
        return None
    keys = ("shapley", "leave_one_out", "solo")
    rows = [[Cell(alias), *(plain(nats[key][alias], digits=3) for key in keys)] for alias in nats["shapley"]]
    head = ("encoder", "Shapley (nats)", "leave-one-out (nats)", "solo over none (nats)")
    return Table(f"{name}-logprob", "Contributions in log-probability", head, rows)


def share_table(name: str, task: dict[str, Any]) -> Table | None:
    """Shares in absolute per-example Shapley values, which noise and disagreement raise too."""
    found = task["contribution_share"]
    if "not_run" in found:
        return None
    rows = [[Cell(alias), share(entry)] for alias, entry in found.items()]
    return Table(f"{name}-contribution-shares", "Share in absolute contributions", ("encoder", "share"), rows)


def interaction_tables(name: str, task: dict[str, Any]) -> list[Table]:
    """Interactions of pairs in the metric and in log-probability, of larger sets, and Möbius coefficients."""
    nats = task["logprob"]
    in_nats = {} if "not_run" in nats else {tuple(e["encoders"]): e for e in nats["interaction"]}
    head = ["encoders", "index", "interaction", *(["in log-probability (nats)"] if in_nats else [])]
    rows = [
        [
            Cell(coalition_words(entry["encoders"])),
            Cell(entry.get("index", "SII")),
            difference(entry),
            *([plain(in_nats[tuple(entry["encoders"])], digits=3)] if in_nats else []),
        ]
        for entry in task["interaction"]
    ]
    made = [Table(f"{name}-interactions", "Pairwise interactions", head, rows)]
    for key, title in (("higher_interaction", "Interactions of three and more"), ("moebius", "Möbius coefficients")):
        found = task[key]
        if isinstance(found, list) and found:
            lines = [[Cell(coalition_words(entry["encoders"])), difference(entry)] for entry in found]
            made.append(Table(f"{name}-{key.replace('_', '-')}", title, ("encoders", "points"), lines))
    return made


def slice_tables(name: str, task: dict[str, Any], encoders: Sequence[str]) -> list[Table]:
    """Values within each slice of each column, and every slice and encoder with p-values corrected together."""
    made = [
        _slice_table(name, place, column, values, encoders)
        for place, (column, values) in enumerate(task["slices"].items())
    ]
    head = ("slice", "encoder", "n", "Shapley", "p (BH)", "leave-one-out", "p (BH) of it")
    rows = []
    for column, values in task["slices"].items():
        for value, found in values.items():
            for alias in encoders if "not_run" not in found else ():
                cells = [
                    cell
                    for key in ("shapley", "leave_one_out")
                    for cell in (difference(found[key][alias]), _corrected(found[key][alias]))
                ]
                label = f"{short(column, longest=24)} = {short(value, longest=36)}"
                rows.append([Cell(label), Cell(alias), count(found["n"]), *cells])
    title = "Every slice and encoder, corrected for false discovery"
    return [*made, *([Table(f"{name}-slices", title, head, rows)] if rows else [])]


def _corrected(leaf: Leaf) -> Cell:
    return p_value(leaf["p_bh"]) if "p_bh" in leaf else Cell("–")


def _slice_table(name: str, place: int, column: str, values: dict[str, Any], encoders: Sequence[str]) -> Table:
    head = (short(column), "n", "all encoders", "none", *(f"{alias} Shapley" for alias in encoders))
    rows = []
    for value, found in values.items():
        if "not_run" in found:
            missing = [absent(found), *(Cell("") for _ in range(len(encoders) + 1))]
            rows.append([Cell(short(value)), count(found["n"]), *missing])
            continue
        shapley = [difference(found["shapley"][alias]) for alias in encoders]
        rows.append([Cell(short(value)), count(found["n"]), share(found["full"]), share(found["empty"]), *shapley])
    return Table(f"{name}-slices-{place}", f"By {short(column)}", head, rows)


def attention_tables(name: str, task: dict[str, Any], encoders: Sequence[str]) -> list[Table]:
    """Attention beside what ablation shows, and its mass by layer and head."""
    rows = []
    for alias, entry in task["attention"].items():
        tokens = entry["token_share"]
        known = isinstance(tokens, int | float)
        rows.append(
            [
                Cell(alias),
                share(entry["mass"]),
                Cell(f"{number(tokens, scale=100.0)}\u00a0%", tokens) if known else absent(tokens),
                plain(entry["lift"]),
                difference(task["shapley"][alias]),
                difference(task["leave_one_out"][alias]),
            ]
        )
    head = ("encoder", "attention mass", "token share", "lift", "Shapley (ablation)", "leave-one-out (ablation)")
    made = [Table(f"{name}-attention", "Attention of all encoders together", head, rows)]
    heads = {alias: task["attention"][alias].get("by_head", []) for alias in encoders}
    layers = max((len(found) for found in heads.values()), default=0)
    lines = [
        [count(layer + 1), count(place + 1), *(_percent_cell(heads[alias], layer, place) for alias in encoders)]
        for layer in range(layers)
        for place in range(max(len(found[layer]) for found in heads.values() if layer < len(found)))
    ]
    if lines:
        columns = ("layer", "head", *(f"{alias} mass" for alias in encoders))
        made.append(Table(f"{name}-attention-heads", "Mass by layer and head", columns, lines))
    return made


def _percent_cell(found: list[list[float]], layer: int, place: int) -> Cell:
    if layer >= len(found) or place >= len(found[layer]):
        return Cell("–")
    return Cell(f"{number(found[layer][place], scale=100.0)}\u00a0%", found[layer][place])
