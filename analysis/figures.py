"""The figures of the report, drawn from results.json alone.

Handed results of a task or a run; hands on `Drawing`s with alternative texts. Widths suit a telephone; on a
wide page two stand side by side.
"""

from __future__ import annotations

from typing import Any

from analysis.drawing import INK, MARKERS, MUTED, SERIES, Drawing, canvas, finish, heatmap, styled
from analysis.leaves import Leaf, is_run
from analysis.words import coalition_words, percent, points, short, title_of, with_interval

WIDTH = 4.4
MOST_COALITIONS = 32
SLICE_COLUMNS_FIRST = ("factor",)


def _error(leaf: Leaf) -> list[list[float]]:
    low, high = leaf["ci95"]
    value = leaf["value"]
    return [[max(0.0, 100 * (value - low))], [max(0.0, 100 * (high - value))]]


@styled
def coalition_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Value of every coalition above a dot matrix of its members (as UpSet plots do), best to the right."""
    shown = sorted((e for e in task["coalitions"] if is_run(e)), key=lambda e: float(e["value"]))
    shown = shown[-MOST_COALITIONS:]
    figure, (top, dots) = canvas(WIDTH, 2.3 + 0.17 * len(encoders), rows=[3.0, 0.3 * len(encoders)])
    for x, entry in enumerate(shown):
        colour = SERIES[0] if len(entry["encoders"]) != 1 else SERIES[1]
        top.errorbar([x], [100 * entry["value"]], yerr=_error(entry), fmt="o", ms=4, color=colour, lw=1.2)
        present = [encoders.index(alias) for alias in entry["encoders"]]
        dots.scatter([x] * len(encoders), range(len(encoders)), s=13, color=MUTED, alpha=0.22, lw=0)
        dots.scatter([x] * len(present), present, s=17, color=INK, lw=0)
        if len(present) > 1:
            dots.plot([x, x], [min(present), max(present)], color=INK, lw=1)
    for key, style, label in (("floor", "--", "floor"), ("best_single", ":", "best single")):
        if is_run(task[key]):
            height = 100 * task[key]["value"]
            top.axhline(height, ls=style, color=MUTED, lw=1.1)
            place = (len(shown) - 0.6, height)
            top.annotate(
                label, place, (0, 2), textcoords="offset points", color=MUTED, fontsize=7.5, ha="right"
            )
    top.set_ylabel(f"{task['metric']} (%)")
    top.tick_params(axis="x", length=0, labelbottom=False)
    dots.set_yticks(range(len(encoders)), encoders)
    dots.set_ylim(len(encoders) - 0.4, -0.6)
    dots.tick_params(length=0, labelbottom=False)
    for side in ("left", "bottom"):
        dots.spines[side].set_visible(False)
    best = shown[-1]
    alt = (
        f"{title_of(name)}: value of {len(shown)} coalitions with 95 % intervals. Highest: "
        f"{coalition_words(best['encoders'])}, {percent(best)}. Single encoders are orange."
    )
    return finish(figure, f"{name}-coalitions", alt)


@styled
def contribution_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Forest plot of Shapley, leave-one-out and solo per encoder."""
    figure, [axes] = canvas(WIDTH, 1.1 + 0.42 * len(encoders))
    kinds = (("shapley", "Shapley"), ("leave_one_out", "leave-one-out"), ("solo", "solo over none"))
    for index, (key, label) in enumerate(kinds):
        labelled = False
        for y, alias in enumerate(encoders):
            leaf = task[key][alias]
            if not is_run(leaf):
                continue
            place = y + 0.24 * (index - 1)
            axes.errorbar(
                [100 * leaf["value"]],
                [place],
                xerr=_error(leaf),
                fmt=MARKERS[index],
                ms=4,
                lw=1.2,
                color=SERIES[index],
                label=None if labelled else label,
            )
            labelled = True
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_yticks(range(len(encoders)), encoders)
    axes.set_ylim(len(encoders) - 0.5, -0.5)
    axes.set_xlabel("points (95 % interval)")
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.1, columnspacing=1.0)
    said = "; ".join(f"{alias} {points(task['shapley'][alias])}" for alias in encoders)
    return finish(figure, f"{name}-contributions", f"{title_of(name)}: Shapley values: {said}.")


@styled
def interaction_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Heat map of pairwise Shapley interactions."""
    values = _symmetric(task["interaction"], encoders, scale=100.0)
    figure, [axes] = canvas(WIDTH, 0.6 + 0.38 * len(encoders))
    heatmap(axes, values, encoders, encoders, unit="pt")
    said = "; ".join(f"{coalition_words(e['encoders'])} {points(e)}" for e in task["interaction"])
    return finish(figure, f"{name}-interactions", f"{title_of(name)}: pairwise interactions: {said}.")


@styled
def error_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing:
    """Heat map of error consistency between encoders, each alone."""
    figure, [axes] = canvas(WIDTH, 0.6 + 0.38 * len(encoders))
    pairs = [{"encoders": entry["encoders"], **entry["error_consistency"]} for entry in task["overlap"]]
    heatmap(axes, _symmetric(pairs, encoders, scale=1.0), encoders, encoders, unit="")
    said = "; ".join(f"{coalition_words(p['encoders'])} {with_interval(p, digits=2)}" for p in pairs)
    return finish(figure, f"{name}-errors", f"{title_of(name)}: error consistency κ of pairs: {said}.")


def _symmetric(pairs: list[Leaf], encoders: list[str], *, scale: float) -> list[list[int | float | None]]:
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
    figure, [axes] = canvas(WIDTH, 0.5 + 0.3 * len(found))
    heatmap(axes, values, labels, encoders, unit="pt")
    alt = (
        f"{title_of(name)}: Shapley value in points by {short(columns[0])} (n) and encoder; "
        "intervals in the table."
    )
    return finish(figure, f"{name}-slices", alt)


def _points_or_none(leaf: Leaf) -> float | None:
    return 100 * float(leaf["value"]) if is_run(leaf) else None


@styled
def attention_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing | None:
    """Attention mass by layer, one line per encoder."""
    profiles = {a: task["attention"][a]["by_layer"] for a in encoders if "by_layer" in task["attention"][a]}
    if not profiles:
        return None
    figure, [axes] = canvas(WIDTH, 1.9)
    for index, (alias, profile) in enumerate(profiles.items()):
        axes.plot(
            range(1, len(profile) + 1),
            [100 * mass for mass in profile],
            marker=MARKERS[index % 4],
            color=SERIES[index % 4],
            ls="-" if index < 4 else "--",
            ms=4,
            lw=1.2,
            label=alias,
        )
    axes.set_xticks(range(1, max(len(profile) for profile in profiles.values()) + 1))
    axes.set_xlabel("layer")
    axes.set_ylabel("attention mass (%)")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=4, columnspacing=1.0, handlelength=1.4)
    alt = (
        f"{title_of(name)}: attention mass of the classification query by layer and encoder; "
        "numbers in the table."
    )
    return finish(figure, f"{name}-attention", alt)


@styled
def similarity_figure(results: dict[str, Any]) -> Drawing | None:
    """Heat map of CKA between encoders."""
    pairs, encoders = results["similarity"]["cka"], results["encoders"]
    if not isinstance(pairs, list) or len(encoders) < 2:
        return None
    figure, [axes] = canvas(WIDTH, 0.6 + 0.38 * len(encoders))
    heatmap(axes, _symmetric(pairs, encoders, scale=1.0), encoders, encoders, unit="")
    return finish(figure, "similarity", "Debiased linear CKA between encoders; numbers in the table.")


@styled
def training_figure(results: dict[str, Any]) -> Drawing | None:
    """Training losses by step, one line per trained model."""
    records = [record for record in results["training"] if record["losses"]]
    if not records:
        return None
    figure, [axes] = canvas(WIDTH, 2.0)
    for index, record in enumerate(records):
        steps, losses = zip(*record["losses"], strict=True)
        label = short(f"{record['model']} {record['mode']} {record['seed']}", longest=24)
        axes.plot(
            steps, losses, lw=1.2, color=SERIES[index % 4], ls=("-", "--", ":")[index // 4 % 3], label=label
        )
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.4)
    return finish(figure, "training", f"Training loss by step of {len(records)} trained models.")
