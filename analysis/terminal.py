"""The summary that a run prints: one line per task, in plain text.

Handed results; hands on lines. Shares in percent with their 95 % intervals.
"""

from __future__ import annotations

from typing import Any

from analysis.words import compact, is_retrained, number, points

HEAD = ("task, in %", "n", "chance", "floor", "best single", "all encoders", "gain over best single")


def summary_lines(results: dict[str, Any]) -> list[str]:
    """An aligned table, the grades by task, and what the intervals mean."""
    rows: list[tuple[str, ...]] = [HEAD]
    for name, task in results["tasks"].items():
        best = task["best_single"]
        label = f"{best['encoder']} {compact(best)}" if "value" in best else "not run"
        rows.append(
            (
                name,
                f"{task['n']:,}",
                number(task["chance"], scale=100.0),
                compact(task["floor"]),
                label,
                compact(task["coalitions"][-1]),
                points(task["gain_over_best_single"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    grades = [
        f"{name}: " + ", ".join(f"{entry['encoder']} {entry['grade']}" for entry in task["verdict"])
        for name, task in results["tasks"].items()
    ]
    return [
        table[0],
        "-" * len(table[0]),
        *table[1:],
        "",
        f"Dropping one encoder{' (each coalition has a model of its own)' if is_retrained(results) else ''}:",
        *grades,
        "",
        results["interval_note"],
    ]
