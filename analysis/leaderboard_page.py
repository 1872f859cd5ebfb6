"""The page of several runs side by side, and its files.

Handed a leaderboard; hands on a `Page` like that of one run, written as `leaderboard.html`, `.md` and `.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.blocks import Cell, Group, Page, Section, Table, Verdict
from analysis.comparison_figures import leaderboard_figure
from analysis.fronts import COSTS
from analysis.leaderboard import leaderboard
from analysis.pictures import Pictures
from analysis.report import Report, write_page
from analysis.results import write_atomically
from analysis.sentences import MARGIN_WORDS
from analysis.tables import count, difference, p_value, share
from analysis.words import compare, metric_title, p_words, percent, short, title_of


def write_leaderboard(reports: Sequence[tuple[Path, Report]], folder: Path) -> Path:
    """Compares finished runs, the first of them with all others, and writes the page.

    Raises:
        RunFolderError: a run's answers cannot be read.
    """
    board = leaderboard([(run, report.results) for run, report in reports])
    text = json.dumps(board, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "leaderboard.json", text)
    html, _ = write_page(folder, "leaderboard", leaderboard_page(board), Pictures({}))
    return html


def leaderboard_page(board: Mapping[str, Any]) -> Page:
    """Everything that is shown of several runs."""
    runs, first = board["runs"], short(board["runs"][0]["run"])
    return Page(
        title=f"Leaderboard of {len(runs)} runs",
        summary=f"{', '.join(short(run['run']) for run in runs)}; {len(board['tasks'])} tasks.",
        lead=[
            f"All encoders of each run together. Differences are from the first run, {first}, paired over the same "
            "examples; brackets hold 95 % intervals. Outcomes: better, worse, equivalent (the interval lies within "
            f"{MARGIN_WORDS} either way), undetermined."
        ],
        overview=_overview(board),
        sections=[_scores(board), _contributions(board), _runs(board), _limits()],
        foot=(
            f"All numbers come from leaderboard.json beside this page ({board['statistics']['resamples']:,} resamples, "
            f"seed {board['statistics']['seed']}) and from each run's results.json; figures are also in figures/."
        ),
        verdicts=[_verdict(name, task) for name, task in board["tasks"].items()],
    )


def _entry(task: Mapping[str, Any], run: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((entry for entry in task["runs"] if entry["run"] == run), None)
    return found


def _overview(board: Mapping[str, Any]) -> Table:
    """One row a run, one column a task."""
    rows = []
    for run in board["runs"]:
        found = [_entry(task, run["run"]) for task in board["tasks"].values()]
        values = [Cell("not in this run") if entry is None else share(entry["value"]) for entry in found]
        what = [Cell(short(run["operator"] or "–")), Cell(short("+".join(run["encoders"])))]
        rows.append([Cell(short(run["run"])), *what, Cell(", ".join(map(str, run["seeds"]))), *values])
    head = ("run", "fusion", "encoders", "seeds", *(title_of(name) for name in board["tasks"]))
    return Table("leaderboard", "Leaderboard", head, rows, shown=True)


def _verdict(name: str, task: Mapping[str, Any]) -> Verdict:
    first = task["runs"][0]
    entries = [
        {
            "encoder": short(entry["run"]),
            "grade": entry["outcome"],
            "text": _against(entry, short(first["run"])),
            "action": entry["action"],
        }
        for entry in task["runs"][1:]
    ]
    headline = f"{short(first['run'])} reaches {percent(first['value'])} {metric_title(task['metric'])}."
    return Verdict(name, title_of(name), headline, entries, [])


def _against(entry: Mapping[str, Any], first: str) -> str:
    said = compare(entry["difference"], what=first)
    tail = f"; Holm {p_words(entry['p_holm'])}" if "p_holm" in entry else ""
    if entry["outcome"] == "undetermined" and not entry["difference"]["ci95"][0] <= 0 <= entry["difference"]["ci95"][1]:
        tail += ", which does not survive correction"
    return f"Reaches {percent(entry['value'])}: {said}{tail}."


def _scores(board: Mapping[str, Any]) -> Section:
    groups = []
    for name, task in board["tasks"].items():
        labels, values = [e["run"] for e in task["runs"]], [e["value"] for e in task["runs"]]
        drawn = leaderboard_figure(name, task["metric"], labels, values)
        rows = [
            [
                Cell(short(entry["run"])),
                share(entry["value"]),
                difference(entry["difference"]) if "difference" in entry else Cell("–"),
                p_value(entry["p_holm"]) if "p_holm" in entry else Cell("–"),
                difference(entry["gain_over_floor"]),
                difference(entry["gain_over_best_single"]),
            ]
            for entry in task["runs"]
        ]
        metric = metric_title(task["metric"])
        head = ("run", metric, "over the first run", "p (Holm)", "over its floor", "over its best single encoder")
        table = Table(f"{name}-runs", "Runs", head, rows, shown=True)
        groups.append(Group(title_of(name), [], [table] if drawn is None else [drawn, table]))
    return Section("scores", "Scores", ["All encoders of each run together, with 95 % intervals."], groups)


def _contributions(board: Mapping[str, Any]) -> Section:
    """Shapley value and grade of each encoder in each run that has it."""
    groups = []
    for name, task in board["tasks"].items():
        aliases = list(dict.fromkeys(alias for entry in task["runs"] for alias in entry["shapley"]))
        rows = []
        for entry in task["runs"]:
            for alias in aliases:
                if alias in entry["shapley"]:
                    cells = [difference(entry["shapley"][alias]), Cell(entry["grades"].get(alias, "–"))]
                    rows.append([Cell(short(entry["run"])), Cell(alias), *cells])
        table = Table(f"{name}-run-shapley", "Shapley values", ("run", "encoder", "Shapley", "grade"), rows, shown=True)
        groups.append(Group(title_of(name), [], [table]))
    lead = ["What each encoder contributes in each run, and the grade that it has there."]
    return Section("contributions", "Contributions", lead, groups)


def _runs(board: Mapping[str, Any]) -> Section:
    digits = {"params": 0, "gflops": 3, "tokens": 0, "ms_per_image": 2}
    rows = [
        [Cell(short(run["run"])), *(count(run["cost"][key], digits=digits[key]) for key in COSTS)]
        for run in board["runs"]
    ]
    table = Table("run-costs", "Cost of all encoders of a run", ("run", *COSTS.values()), rows, shown=True)
    lead = ["Sums over a run's encoders, measured on the machine that ran it; without the fusion model's own cost."]
    return Section("cost", "Cost", lead, [Group("", [], [table])])


def _limits() -> Section:
    lines = [
        "Runs are compared as trained: where each has one seed, a difference holds for those two models and not for "
        "the settings behind them. Several seeds are paired in the order that the runs list them.",
        "p-values are corrected after Holm over all runs and tasks of this page. Choosing the best of many runs on "
        "these examples overstates it; confirm it on others.",
    ]
    return Section("limits", "Limits", lines, [])
