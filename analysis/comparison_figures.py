"""Figures that set things side by side: gains over controls, accuracy against cost, and several runs.

Handed results of a task, or a leaderboard; hands on `Drawing`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.drawing import INK, MUTED, SERIES, WIDTH, Drawing, canvas, error_bars, finish, styled
from analysis.fronts import COSTS, front, priced
from analysis.leaves import Leaf, is_run
from analysis.words import coalition_words, compact, metric_title, percent, points, short, title_of

MOST_NAMED = 6


@styled
def gain_figure(name: str, task: dict[str, Any]) -> Drawing | None:
    """What all encoders gain over the floor, the best single encoder and every control that was run."""
    gains = {"floor": task["gain_over_floor"], "best single": task["gain_over_best_single"], **task["control_gains"]}
    shown = {label: leaf for label, leaf in gains.items() if is_run(leaf)}
    if not shown:
        return None
    figure, [axes] = canvas(WIDTH, 0.75 + 0.27 * len(shown))
    _forest(axes, list(shown), list(shown.values()))
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_xlabel("points that all encoders gain over it")
    said = "; ".join(f"{label} {points(leaf)}" for label, leaf in shown.items())
    return finish(figure, f"{name}-controls", f"{title_of(name)}: gain of all encoders over: {said}.")


@styled
def front_figure(name: str, task: dict[str, Any], cost: dict[str, Any]) -> Drawing | None:
    """Value of every coalition against each cost, with the front of those that no cheaper one equals."""
    keys = [key for key in COSTS if len(priced(task, cost, key)) > 1]
    if not keys:
        return None
    figure, axes = canvas(WIDTH, 0.4 + 1.5 * ((len(keys) + 1) // 2), rows=[1.0] * ((len(keys) + 1) // 2), columns=2)
    for place, key in zip(axes, keys, strict=False):
        prices, entries = zip(*priced(task, cost, key), strict=True)
        colours = [SERIES[1] if len(entry["encoders"]) == 1 else SERIES[0] for entry in entries]
        place.scatter(prices, [100 * entry["value"] for entry in entries], s=13, color=colours, lw=0)
        best = front(task, cost, key)
        place.step(
            [price for price, _ in best],
            [100 * entry["value"] for _, entry in best],
            where="post",
            color=INK,
            lw=1,
        )
        place.set_xlabel(COSTS[key])
        place.locator_params(axis="x", nbins=3)
        place.xaxis.set_major_formatter(_count)
    for spare in axes[len(keys) :]:
        spare.set_visible(False)
    figure.supylabel(f"{metric_title(task['metric'])} (%)", fontsize=9)
    ends = {tuple(e["encoders"]): e for key in keys for _, e in front(task, cost, key)}
    said = "; ".join(f"{coalition_words(key)} {percent(entry)}" for key, entry in list(ends.items())[:MOST_NAMED])
    alt = f"{title_of(name)}: value of coalitions against {', '.join(COSTS[k] for k in keys)}. On a front: {said}."
    return finish(figure, f"{name}-cost", alt)


@styled
def leaderboard_figure(name: str, metric: str, labels: Sequence[str], values: Sequence[Leaf]) -> Drawing | None:
    """The value of several runs on one task."""
    shown = [(label, leaf) for label, leaf in zip(labels, values, strict=True) if is_run(leaf)]
    if not shown:
        return None
    figure, [axes] = canvas(WIDTH, 0.75 + 0.27 * len(shown))
    _forest(axes, [short(label, longest=26) for label, _ in shown], [leaf for _, leaf in shown])
    axes.set_xlabel(f"{metric_title(metric)} (%)")
    said = "; ".join(f"{short(label)} {compact(leaf)}" for label, leaf in shown)
    return finish(figure, f"{name}-runs", f"{title_of(name)}: {metric_title(metric)} in percent of each run: {said}.")


def _count(value: float, _: object) -> str:
    """A cost on an axis, millions short."""
    return f"{value / 1e6:g} M" if abs(value) >= 1e6 else f"{value:,g}"


def _forest(axes: Any, labels: list[str], leaves: list[Leaf]) -> None:
    values = [100 * leaf["value"] for leaf in leaves]
    axes.errorbar(values, range(len(leaves)), xerr=error_bars(leaves), fmt="o", ms=4, lw=1.2, color=SERIES[0])
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
