"""The figures of values, contributions, attention and training, drawn from results.json alone.

Handed results of a task or a run; hands on `Drawing`s with alternative texts. Widths suit a telephone; on a
wide page two stand side by side. Heat maps are in `matrix_figures`, comparisons in `comparison_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    Drawing,
    canvas,
    cut,
    error_bars,
    finish,
    membership,
    styled,
)
from analysis.leaves import is_run
from analysis.words import coalition_words, metric_title, percent, points, short, title_of

MOST_COALITIONS = 32
MOST_SETS = 16
MOST_BARS = 20


def _by_size(entries: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """A colour for the places of single encoders and one for the rest, where there are any."""
    single = [x for x, entry in enumerate(entries) if len(entry["encoders"]) == 1]
    rest = [x for x in range(len(entries)) if x not in single]
    return [(colour, places) for colour, places in ((SERIES[1], single), (SERIES[0], rest)) if places]


@styled
def coalition_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing | None:
    """Value of every coalition above a dot matrix of its members (as UpSet plots do), best to the right."""
    shown = sorted((e for e in task["coalitions"] if is_run(e)), key=lambda e: float(e["value"]))
    if not shown:
        return None
    shown = shown[-MOST_COALITIONS:]
    figure, (top, dots) = canvas(WIDTH, 2.2 + 0.19 * len(encoders), rows=[3.0, 0.34 * len(encoders)])
    for colour, places in _by_size(shown):
        leaves = [shown[x] for x in places]
        heights = [100 * entry["value"] for entry in leaves]
        top.errorbar(places, heights, yerr=error_bars(leaves), fmt="o", ms=4, color=colour, lw=1.2)
    for key, style, label in (("floor", "--", "floor"), ("best_single", ":", "best single")):
        if is_run(task[key]):
            height = 100 * task[key]["value"]
            top.axhline(height, ls=style, color=MUTED, lw=1.1)
            # The best single encoder is above everything on the left, the floor below everything on the right.
            at, side = (-0.4, "left") if key == "best_single" else (len(shown) - 0.6, "right")
            top.annotate(label, (at, height), (0, 2), textcoords="offset points", color=MUTED, fontsize=8, ha=side)
    top.set_ylabel(f"{metric_title(task['metric'])} (%)")
    top.tick_params(axis="x", length=0, labelbottom=False)
    membership(dots, [entry["encoders"] for entry in shown], encoders)
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
        found = [(y, task[key][alias]) for y, alias in enumerate(encoders) if is_run(task[key][alias])]
        leaves = [leaf for _, leaf in found]
        axes.errorbar(
            [100 * leaf["value"] for leaf in leaves],
            [y + 0.24 * (index - 1) for y, _ in found],
            xerr=error_bars(leaves),
            fmt=MARKERS[index],
            ms=4,
            lw=1.2,
            color=SERIES[index],
            label=label,
        )
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_yticks(range(len(encoders)), [cut(alias) for alias in encoders])
    axes.set_ylim(len(encoders) - 0.5, -0.5)
    axes.set_xlabel("points (95 % interval)")
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.1, columnspacing=0.8)
    said = "; ".join(f"{alias} {points(task['shapley'][alias])}" for alias in encoders)
    return finish(figure, f"{name}-contributions", f"{title_of(name)}: Shapley values: {said}.")


@styled
def moebius_figure(name: str, task: dict[str, Any]) -> Drawing | None:
    """Möbius coefficients with their intervals, pairs first; the largest where there are many."""
    found = [entry for entry in task["moebius"] if is_run(entry) and entry["encoders"]]
    largest = sorted(found, key=lambda entry: -abs(float(entry["value"])))[:MOST_BARS]
    shown = [entry for entry in found if entry in largest]
    if not shown:
        return None
    figure, [axes] = canvas(WIDTH, 0.7 + 0.2 * len(shown))
    values, places = [100 * entry["value"] for entry in shown], range(len(shown))
    colours = [SERIES[0] if value >= 0 else SERIES[1] for value in values]
    axes.barh(places, values, height=0.62, color=colours, alpha=0.45, lw=0)
    axes.errorbar(values, places, xerr=error_bars(shown), fmt="none", color=INK, lw=1)
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_yticks(range(len(shown)), [cut(" + ".join(e["encoders"])) for e in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("points that only the whole set gives (95 % interval)")
    said = "; ".join(f"{coalition_words(e['encoders'])} {points(e)}" for e in largest[:3])
    return finish(figure, f"{name}-moebius", f"{title_of(name)}: Möbius coefficients, the largest: {said}.")


@styled
def exclusive_figure(name: str, task: dict[str, Any], encoders: list[str]) -> Drawing | None:
    """UpSet plot of who is right alone: share of examples that exactly the encoders of a set get right."""
    if not isinstance(task["exclusive"], list):
        return None
    shown = sorted((e for e in task["exclusive"] if is_run(e)), key=lambda e: -float(e["value"]))[:MOST_SETS]
    figure, (top, dots) = canvas(WIDTH, 1.6 + 0.19 * len(encoders), rows=[2.0, 0.34 * len(encoders)])
    for colour, places in _by_size(shown):
        top.bar(places, [100 * shown[x]["value"] for x in places], width=0.66, color=colour, alpha=0.6, lw=0)
    heights = [100 * entry["value"] for entry in shown]
    top.errorbar(range(len(shown)), heights, yerr=error_bars(shown), fmt="none", color=INK, lw=1)
    top.set_ylabel("examples (%)")
    top.tick_params(axis="x", length=0, labelbottom=False)
    membership(dots, [entry["encoders"] for entry in shown], encoders)
    said = "; ".join(f"{' + '.join(e['encoders']) or 'nobody'} {percent(e)}" for e in shown[:4])
    alt = f"{title_of(name)}: share of examples that exactly these encoders, each alone, get right: {said}."
    return finish(figure, f"{name}-exclusive", alt)


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
            label=cut(alias),
        )
    axes.set_xticks(range(1, max(len(profile) for profile in profiles.values()) + 1))
    axes.set_xlabel("layer")
    axes.set_ylabel("attention mass (%)")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=4, columnspacing=0.8, handlelength=1.2, handletextpad=0.4)
    alt = f"{title_of(name)}: attention mass of the classification query by layer and encoder; numbers in the table."
    return finish(figure, f"{name}-attention", alt)


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
        axes.plot(steps, losses, lw=1.2, color=SERIES[index % 4], ls=("-", "--", ":")[index // 4 % 3], label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    if len(records) <= MOST_BARS:
        figure.legend(loc="outside upper center", ncols=2, handlelength=1.4)
    return finish(figure, "training", f"Training loss by step of {len(records)} trained models.")
