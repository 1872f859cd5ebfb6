"""Heat maps of pairs of encoders and of slices, and similar spaces set against similar errors.

Handed results of a task or a run; hands on `Drawing`s. Numbers stand in the cells, so colour only helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.drawing import MARKERS, SERIES, WIDTH, Drawing, canvas, finish, heatmap, styled
from analysis.leaves import Leaf, is_run
from analysis.words import coalition_words, points, short, title_of, with_interval

SLICE_COLUMNS_FIRST = ("factor",)
MOST_TASKS = 8


@styled
def interaction_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Pairwise Shapley interactions in points."""
    said = "; ".join(f"{coalition_words(e['encoders'])} {points(e)}" for e in task["interaction"])
    alt = f"{title_of(name)}: pairwise interactions: {said}."
    return _pairs(f"{name}-interactions", task["interaction"], encoders, title="points", unit="pt", alt=alt)


@styled
def logprob_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing | None:
    """The same in log-probability, where a ceiling of the metric cannot look like redundancy."""
    if "not_run" in task["logprob"]:
        return None
    pairs = task["logprob"]["interaction"]
    said = "; ".join(f"{coalition_words(e['encoders'])} {with_interval(e, digits=3)}" for e in pairs)
    alt = f"{title_of(name)}: pairwise interactions in nats of log-probability: {said}."
    return _pairs(f"{name}-interactions-logprob", pairs, encoders, title="nats of log-probability", unit="", alt=alt)


@styled
def consistency_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Error consistency between encoders, each alone."""
    pairs = [{"encoders": entry["encoders"], **entry["error_consistency"]} for entry in task["overlap"]]
    said = "; ".join(f"{coalition_words(p['encoders'])} {with_interval(p, digits=2)}" for p in pairs)
    alt = f"{title_of(name)}: error consistency κ of pairs: {said}."
    return _pairs(f"{name}-errors", pairs, encoders, title="error consistency κ", unit="", alt=alt)


@styled
def double_fault_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Share of examples that both encoders of a pair get wrong, each alone."""
    pairs = [{"encoders": entry["encoders"], **entry["double_fault"]} for entry in task["overlap"]]
    said = "; ".join(f"{coalition_words(p['encoders'])} {with_interval(p, scale=100.0)} %" for p in pairs)
    alt = f"{title_of(name)}: examples that both of a pair get wrong: {said}."
    return _pairs(f"{name}-double-fault", pairs, encoders, title="both wrong, % of examples", unit="pt", alt=alt)


@styled
def similarity_figure(similarity: dict[str, Any], encoders: list[str], *, key: str, title: str) -> Drawing | None:
    """Similarity between encoders' representations."""
    pairs = similarity.get(key)
    if not isinstance(pairs, list) or len(encoders) < 2:
        return None
    said = "; ".join(f"{coalition_words(p['encoders'])} {with_interval(p, digits=2)}" for p in pairs)
    return _pairs(f"similarity-{key}", pairs, encoders, title=title, unit="", alt=f"{title}: {said}.")


def _pairs(
    name: str, pairs: Sequence[Leaf], encoders: list[str], *, title: str, unit: str, alt: str
) -> Drawing:
    """A symmetric heat map of leaves of pairs."""
    figure, [axes] = canvas(WIDTH, 0.75 + 0.36 * len(encoders))
    values = _symmetric(pairs, encoders, scale=100.0 if unit == "pt" else 1.0)
    heatmap(axes, values, encoders, encoders, unit=unit)
    axes.set_title(title, fontsize=9, loc="left")
    return finish(figure, name, alt)


def _symmetric(pairs: Sequence[Leaf], encoders: list[str], *, scale: float) -> list[list[int | float | None]]:
    """A matrix from leaves of pairs; None on the diagonal and where a pair has no number."""
    values: list[list[int | float | None]] = [[None] * len(encoders) for _ in encoders]
    for entry in pairs:
        if is_run(entry) and set(entry["encoders"]) <= set(encoders):
            first, second = (encoders.index(alias) for alias in entry["encoders"])
            values[first][second] = values[second][first] = scale * entry["value"]
    return values


@styled
def slice_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing | None:
    """Shapley value of each encoder in each slice of the planted factor, or of the first slice column."""
    columns = [c for c in SLICE_COLUMNS_FIRST if c in task["slices"]] or list(task["slices"])[:1]
    found = {value: s for c in columns for value, s in task["slices"][c].items() if "not_run" not in s}
    if not found:
        return None
    values = [[_points_or_none(entry["shapley"][alias]) for alias in encoders] for entry in found.values()]
    labels = [f"{short(value, longest=18)} ({entry['n']:,})" for value, entry in found.items()]
    figure, [axes] = canvas(WIDTH, 0.65 + 0.28 * len(found))
    heatmap(axes, values, labels, encoders, unit="pt")
    axes.set_title(f"points, by {short(columns[0], longest=30)} (n)", fontsize=9, loc="left")
    alt = f"{title_of(name)}: Shapley value in points by {short(columns[0])} (n) and encoder; intervals in the table."
    return finish(figure, f"{name}-slices", alt)


def _points_or_none(leaf: Leaf) -> float | None:
    return 100 * float(leaf["value"]) if is_run(leaf) else None


@styled
def space_figure(results: dict[str, Any]) -> Drawing | None:
    """CKA of every pair against its error consistency on each task: similar spaces need not make similar errors."""
    cka = results["similarity"]["cka"]
    known = {frozenset(e["encoders"]): e["value"] for e in cka if is_run(e)} if isinstance(cka, list) else {}
    figure, [axes] = canvas(WIDTH, 2.8)
    drawn = 0
    for index, (name, task) in enumerate(list(results["tasks"].items())[:MOST_TASKS]):
        pairs = [
            (known[frozenset(entry["encoders"])], entry["error_consistency"]["value"])
            for entry in task["overlap"]
            if is_run(entry["error_consistency"]) and frozenset(entry["encoders"]) in known
        ]
        if pairs:
            across, up = zip(*pairs, strict=True)
            look, colour, alpha = MARKERS[index % 4], SERIES[index % 4], 1.0 if index < 4 else 0.55
            axes.scatter(across, up, s=18, lw=0, label=title_of(name), marker=look, color=colour, alpha=alpha)
            drawn += len(pairs)
    if not drawn:
        return None
    axes.set_xlabel("CKA")
    axes.set_ylabel("error consistency κ")
    figure.legend(loc="outside upper center", ncols=2, handletextpad=0.1, columnspacing=0.8)
    alt = f"CKA against error consistency κ: {drawn} pairs of encoders and tasks; numbers in the tables."
    return finish(figure, "similarity-errors", alt)
