"""What a coalition costs and whether that is worth it: accuracy against parameters, GFLOPs, tokens and latency.

Handed a task's coalitions with their paired shortfalls and the cost of each encoder; hands on the cost of coalitions,
the front of those that no cheaper one equals, and the cheapest whose loss is shown to be within the margin. A cost is
the sum over encoders; the fusion model's own is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.image_use import MARGIN
from analysis.leaves import is_run

COSTS: dict[str, str] = {
    "params": "parameters",
    "gflops": "GFLOPs an image",
    "tokens": "tokens an image",
    "ms_per_image": "ms an image",
}


def cost_of_coalition(cost: Mapping[str, Mapping[str, Any]], encoders: Sequence[str], key: str) -> float | None:
    """The sum over its encoders; None where one was not measured."""
    parts = [cost[alias][key] if alias in cost else None for alias in encoders]
    numbers = [float(part) for part in parts if isinstance(part, int | float)]
    return sum(numbers) if len(numbers) == len(parts) else None


def priced(task: Mapping[str, Any], cost: Mapping[str, Any], key: str) -> list[tuple[float, dict[str, Any]]]:
    """Coalitions that have a value and a cost, cheapest first, and of equally cheap ones the best first."""
    found = [(cost_of_coalition(cost, e["encoders"], key), e) for e in task["coalitions"] if is_run(e)]
    known = [(price, entry) for price, entry in found if price is not None]
    return sorted(known, key=lambda pair: (pair[0], -float(pair[1]["value"])))


def front(task: Mapping[str, Any], cost: Mapping[str, Any], key: str) -> list[tuple[float, dict[str, Any]]]:
    """Coalitions that are better than every one at most as dear."""
    kept: list[tuple[float, dict[str, Any]]] = []
    for price, entry in priced(task, cost, key):
        if not kept or entry["value"] > kept[-1][1]["value"]:
            kept.append((price, entry))
    return kept


def cheapest_within(task: Mapping[str, Any], cost: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The shortfall of the cheapest coalition whose interval ends within the margin; None where there is none."""
    shortfalls = {tuple(entry["encoders"]): entry for entry in task["shortfall"] if is_run(entry)}
    for _, entry in priced(task, cost, key):
        lacking: dict[str, Any] | None = shortfalls.get(tuple(entry["encoders"]))
        if lacking is not None and lacking["ci95"][1] <= MARGIN:
            return lacking
    return None
