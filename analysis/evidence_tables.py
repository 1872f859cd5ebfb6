"""Tables of what stands for and against a claim: errors, controls, removals, similarity, cost, and what was not run.

Handed results of a task or a run; hands on `Table`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.blocks import Cell, Table
from analysis.fronts import COSTS, cost_of_coalition, front
from analysis.leaves import Leaf, is_run
from analysis.removals import REMOVALS, RETRAINED
from analysis.tables import count, difference, p_value, plain, share
from analysis.words import coalition_words, metric_title, removal_of, short, title_of

ENSEMBLE = {
    "union": "some encoder alone is right",
    "union_independent": "the same if errors were independent",
    "best_single": "best single encoder",
    "headroom_captured": "share of the headroom between these two that all together capture",
}
INFORMATION = ("redundant", "unique_first", "unique_second", "synergy")


def overlap_table(name: str, task: dict[str, Any]) -> Table:
    """Whose errors overlap, pair by pair."""
    shares = {
        "union": "union",
        "union_independent": "union if independent",
        "disagreement": "disagreement",
        "double_fault": "double fault",
    }
    others = {"q": "Q", "error_consistency": "error consistency κ", "capa": "CAPA"}
    rows = [
        [
            Cell(coalition_words(entry["encoders"])),
            *(share(entry[key]) for key in shares),
            *(plain(entry[key]) for key in others),
            share(entry["union_seeds"]),
            difference(entry["union_gain_over_seeds"]),
        ]
        for entry in task["overlap"]
    ]
    head = ("encoders", *shares.values(), *others.values(), "union of two seeds of one", "union gains over seeds")
    return Table(f"{name}-errors", "Errors of pairs, each encoder alone", head, rows)


def ensemble_table(name: str, task: dict[str, Any]) -> Table:
    """The union of all single encoders against independence, and how much of the headroom is captured."""
    rows = [[Cell(label), share(task["ensemble"][key])] for key, label in ENSEMBLE.items()]
    return Table(f"{name}-ensemble", "All single encoders together", ("quantity", "value"), rows)


def exclusive_table(name: str, task: dict[str, Any]) -> Table | None:
    """Who alone is right: the numbers of the figure."""
    if not isinstance(task["exclusive"], list):
        return None
    rows = [[Cell(_exactly(entry["encoders"])), share(entry)] for entry in task["exclusive"]]
    return Table(f"{name}-exclusive", "Right are exactly", ("encoders", "share of examples"), rows)


def _exactly(encoders: list[str]) -> str:
    return coalition_words(encoders) if encoders else "nobody"


def information_table(name: str, task: dict[str, Any]) -> Table | None:
    """Unique, redundant and synergistic bits of pairs."""
    if not isinstance(task["information"], list):
        return None
    head = ("encoders", "redundant (bits)", "unique to the first", "unique to the second", "synergy")
    rows = [
        [Cell(coalition_words(entry["encoders"])), *(plain(entry[part], digits=3) for part in INFORMATION)]
        for entry in task["information"]
    ]
    return Table(f"{name}-information", "Information about the answer, in bits", head, rows)


def flip_table(name: str, task: dict[str, Any]) -> Table | None:
    """Exact McNemar tests of rescues against harms, seed by seed."""
    if "not_run" in task["flips"]:
        return None
    rows = [
        [Cell(alias), count(test["seed"]), count(test["gained"]), count(test["lost"]), p_value(test["p"])]
        for alias, entry in task["flips"].items()
        if isinstance(entry["mcnemar"], list)
        for test in entry["mcnemar"]
    ]
    head = ("encoder", "seed", "rescued", "harmed", "McNemar p")
    return Table(f"{name}-mcnemar", "Rescued against harmed, exact tests", head, rows) if rows else None


def control_table(name: str, task: dict[str, Any]) -> Table:
    """Controls, and the gain of all encoders over each; what was not run says why."""
    known = {**task["controls"], **task["other_modes"]}
    tested = {(one["control"], tuple(one["encoders"])): one for one in task["complementarity"]["comparisons"]}
    rows = []
    for label, leaf in known.items():
        made_of = coalition_words(leaf["encoders"]) if "encoders" in leaf else "–"
        gain = difference(task["control_gains"][label]) if label in task["control_gains"] else Cell("–")
        one = tested.pop((label, tuple(leaf.get("encoders", ()))), None)
        rows.append([Cell(label), Cell(made_of), share(leaf), gain, _holm(one)])
    for (label, encoders), one in tested.items():  # made of another encoder as well, with which it is weaker
        rows.append([Cell(label), Cell(coalition_words(encoders)), Cell("–"), difference(one["gain"]), _holm(one)])
    head = ("control", "made of", metric_title(task["metric"]), "all encoders gain", "p (Holm)")
    return Table(f"{name}-controls", "Controls", head, rows, shown=True)


def _holm(comparison: dict[str, Any] | None) -> Cell:
    return Cell("–") if comparison is None or not is_run(comparison["gain"]) else p_value(comparison["p_holm"])


def removal_table(name: str, task: dict[str, Any]) -> Table | None:
    """What each encoder is worth under every way of removing it, and how the ways agree."""
    usual_way = removal_of(task)
    ways = [way for way in (*REMOVALS, RETRAINED) if way != usual_way and way in task["sensitivity"]]
    if all("not_run" in task["sensitivity"][way] for way in ways):
        return None
    rows: list[list[Cell]] = []
    for alias, usual in task["leave_one_out"].items():
        found = [_of_encoder(task["sensitivity"][way], alias) for way in ways]
        rows.append([Cell(alias), difference(usual), *found])
    agreement = [_agreement(task["sensitivity"][way]) for way in ways]
    rows.append([Cell(f"rank correlation with {REMOVALS[usual_way]}"), Cell("–"), *agreement])
    named = REMOVALS | {RETRAINED: "retraining without it"}
    head = ("leave-one-out by", *(named[way] for way in (usual_way, *ways)))
    return Table(f"{name}-removals", "Ways of removing an encoder", head, rows, shown=True)


def _of_encoder(found: Leaf, alias: str) -> Cell:
    return Cell("not run") if "not_run" in found else difference(found["leave_one_out"][alias])


def _agreement(found: Leaf) -> Cell:
    return Cell("not run") if "not_run" in found else plain(found["rank_agreement"])


def removal_values(name: str, task: dict[str, Any]) -> Table | None:
    """Every coalition under every other way of removing that was evaluated."""
    rows = [
        [Cell(way), Cell(coalition_words(entry["encoders"])), share(entry)]
        for way, found in task["sensitivity"].items()
        if "not_run" not in found
        for entry in found["coalitions"]
    ]
    head = ("removal", "encoders", metric_title(task["metric"]))
    return Table(f"{name}-removal-values", "Coalitions under other removals", head, rows) if rows else None


def similarity_table(similarity: dict[str, Any], key: str, title: str) -> Table | None:
    """Similarity of every pair with its null level."""
    if not isinstance(similarity.get(key), list):
        return None
    rows = [
        [
            Cell(coalition_words(e["encoders"])),
            plain(e, digits=3),
            count(e.get("chance", {"not_run": "unknown"}), digits=3),
            count(e.get("n", {"not_run": "unknown"})),
        ]
        for e in similarity[key]
    ]
    return Table(key.replace("_", "-"), title, ("encoders", "similarity", "null level", "images"), rows, shown=True)


def cost_table(cost: dict[str, Any]) -> Table:
    """What each encoder costs."""
    digits = {"params": 0, "gflops": 3, "tokens": 0, "ms_per_image": 2}
    rows = [
        [Cell(alias), *(count(entry[key], digits=digits[key]) for key in COSTS)] for alias, entry in cost.items()
    ]
    return Table("cost-encoders", "Cost of each encoder", ("encoder", *COSTS.values()), rows, shown=True)


def front_table(name: str, task: dict[str, Any], cost: dict[str, Any]) -> Table:
    """Every coalition's value and cost, and on which fronts it lies."""
    digits = {"params": 0, "gflops": 3, "tokens": 0, "ms_per_image": 2}
    fronts = {key: {tuple(e["encoders"]) for _, e in front(task, cost, key)} for key in COSTS}
    rows = []
    for entry in task["coalitions"]:
        prices = {key: cost_of_coalition(cost, entry["encoders"], key) for key in COSTS}
        cells = [count(_known(price), digits=digits[key]) for key, price in prices.items()]
        on = [COSTS[key] for key in COSTS if tuple(entry["encoders"]) in fronts[key]]
        rows.append([Cell(coalition_words(entry["encoders"])), share(entry), *cells, Cell(", ".join(on) or "–")])
    head = ("encoders", metric_title(task["metric"]), *COSTS.values(), "on the front of")
    return Table(f"{name}-front", "Accuracy and cost of every coalition", head, rows)


def _known(price: float | None) -> float | Leaf:
    return price if price is not None else {"not_run": "not measured"}


def not_run_table(results: dict[str, Any]) -> Table | None:
    """Everything that results.json says was not run, by name; slices are in their own tables."""
    seen: dict[tuple[str, str], list[str]] = {}
    for name, task in results["tasks"].items():
        for what, why in _not_run(task, ()):
            seen.setdefault((what, why), []).append(title_of(name))
    for part in ("similarity", "cost"):
        for what, why in _not_run(results[part], (part,)):
            seen.setdefault((what, why), []).append("the run")
    rows = [
        [Cell(short(what, longest=80)), Cell(short(why, longest=120)), Cell(", ".join(tasks))]
        for (what, why), tasks in seen.items()
    ]
    return Table("not-run", "Not run", ("what", "why", "where"), rows, shown=True) if rows else None


def _not_run(found: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and reason of every leaf that is absent; of a list, once for all its entries."""
    if isinstance(found, list):
        yield from dict.fromkeys(line for entry in found for line in _not_run(entry, path))
    elif isinstance(found, Mapping):
        if "not_run" in found:
            yield " › ".join(part.replace("_", " ") for part in path), str(found["not_run"])
        elif not is_run(dict(found)) and path[:1] != ("slices",):
            for key, inner in found.items():
                yield from _not_run(inner, (*path, str(key)))
