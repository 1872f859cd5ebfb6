"""The results of one task: its entry in results.json.

Handed the task's answers on the evaluated split and on the one for choices, and the run's side files; hands on the
dictionary of leaves. All numbers of a task come from the same resampled images, so differences are paired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.answers import TaskAnswers
from analysis.attention import AttentionRow, attention_results
from analysis.bootstrap import Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.columns import Columns, task_columns
from analysis.comparisons import comparison_results, verdict_entries
from analysis.contributions import Contributions, contribution_share, in_log_probability, in_the_metric
from analysis.draws import Draws
from analysis.information import shared_information
from analysis.leaves import SHARE, Leaf, leaf, not_run
from analysis.metric_values import influence_of, kind_of, metric_of, recall_influence, secondary_statistic
from analysis.overlap import CONVENTION, ensemble_overlap, exclusive_sets, pair_overlap
from analysis.removals import REMOVALS, RETRAINED, OtherValues, removal_cells
from analysis.rescues import flips
from analysis.run_files import RunFiles, excluded_of, impossible_controls, training_of
from analysis.slices import slice_results


@dataclass(frozen=True)
class TaskContext:
    """Everything that the parts of a task's results are computed from."""

    columns: Columns
    resampler: Resampler
    values: Draws
    chance: float

    @property
    def space(self) -> CoalitionSpace:
        """The coalitions."""
        return self.columns.space

    @property
    def answers(self) -> TaskAnswers:
        """The evaluated split."""
        return self.columns.answers

    @property
    def n(self) -> int:
        """Number of rows: examples, or queries in both directions."""
        return len(self.answers.rows.ids)


def task_results(
    answers: TaskAnswers,
    selection: TaskAnswers | None,
    files: RunFiles,
    attention: list[AttentionRow] | None,
    *,
    num_resamples: int,
    seed: int,
    comparisons: int,
) -> dict[str, Any]:
    """One task's entry; claims and verdicts still lack what is corrected over all tasks.

    Args:
        comparisons: encoders of all tasks of the run, over which verdicts are corrected.
    """
    baseline = files.baseline(answers.task)
    any_cell = next(iter(answers.cells[answers.seeds[0]].values()))
    metric = metric_of(answers.task, baseline.get("metric"), answers.rows, any_cell)
    columns = task_columns(answers, metric, files.encoders, mode=files.table_mode)
    clusters = answers.rows.num_clusters
    resampler = Resampler(answers.task, num_clusters=clusters, num_resamples=num_resamples, seed=seed)
    chance = float(baseline["chance"])
    values = columns.coalition_draws(resampler, chance=chance)
    context = TaskContext(columns, resampler, values, chance)
    contributions = in_the_metric(Contributions(context.space, values, context.n))
    sensitivity = _sensitivity(context)
    impossible = impossible_controls(files)
    compared = comparison_results(
        columns, resampler, values, selection, chance=chance, seed=seed, impossible=impossible
    )
    return {
        "metric": metric,
        "split": answers.split,
        "chance": chance,
        "majority": baseline.get("majority"),
        "prior": baseline.get("prior"),
        "n": context.n,
        "images": clusters,
        "seeds": list(answers.seeds),
        **training_of(files, answers.task),
        **excluded_of(files, answers.task),
        "coalitions": _coalition_leaves(context),
        **contributions,
        "shortfall": _shortfall(context),
        "contribution_share": _contribution_share(context),
        "logprob": _log_probability(context, contributions["interaction"]),
        "sensitivity": sensitivity,
        **attention_results(attention, answers.task, files.encoders, contributions),
        **_errors(context),
        **compared,
        "slices": slice_results(answers.rows, columns, context.space, resampler, chance=chance),
        "secondary": _secondary(context),
        "verdict": verdict_entries(columns, values, sensitivity, comparisons=comparisons),
    }


def _coalition_leaves(context: TaskContext) -> list[dict[str, Any]]:
    leaves = []
    for column, coalition in enumerate(context.space.coalitions):
        entry = {"encoders": list(coalition), "mode": context.columns.mode, "removal": context.columns.removal}
        entry.update(leaf(context.values, column, n=context.n, chance=context.chance, bounds=SHARE))
        if column == 0 and context.columns.empty_by_definition:
            entry["by_definition"] = "chance"
        leaves.append(entry)
    return leaves


def _shortfall(context: TaskContext) -> list[dict[str, Any]]:
    """What each coalition lacks of the value of all encoders together, paired."""
    count, full = len(context.space.coalitions), context.space.full
    matrix = -np.eye(count)
    matrix[:, full] += 1
    lacking = context.values.linear(matrix)
    return [
        {"encoders": list(coalition), **leaf(lacking, column, n=context.n)}
        for column, coalition in enumerate(context.space.coalitions)
        if column != full
    ]


def _contribution_share(context: TaskContext) -> dict[str, Leaf] | Leaf:
    if kind_of(context.columns.metric) != "mean":
        return not_run("examples have no Shapley values of their own where the metric is of the set")
    cells = (context.columns.cells(name) for name in context.columns.names)
    seeds = list(zip(*cells, strict=True))
    return contribution_share(
        context.columns.metric, context.answers.rows, seeds, context.space, context.resampler
    )


def _log_probability(context: TaskContext, interaction: list[dict[str, Any]]) -> dict[str, Any]:
    if context.columns.empty_by_definition:
        return not_run("without images a ranking gives its target no probability")
    values = context.columns.logprob_draws(context.resampler)
    if values is None:
        return not_run("some answers have no finite log-probability of their target")
    return in_log_probability(Contributions(context.space, values, context.n), interaction)


def _sensitivity(context: TaskContext) -> dict[str, Any]:
    """Other ways of removing encoders, and retrained coalitions."""
    result: dict[str, Any] = {}
    default = context.columns.removal
    for name in (*REMOVALS, RETRAINED):
        if name == default:
            if name != "drop":
                result[name] = not_run("the table itself removes encoders so")
            continue
        if context.columns.mode == RETRAINED:
            result[name] = not_run("every coalition has a model of its own, which lacks no encoder")
            continue
        cells = removal_cells(context.answers, context.space, name, default=default)
        if not cells:
            result[name] = not_run("the run holds no such cells")
            continue
        values = context.columns.draws(list(cells.values()), context.resampler)
        usual = context.values.columns([context.space.column(coalition) for coalition in cells])
        other = OtherValues(context.space, tuple(cells), values, usual)
        result[name] = other.results(n=context.n, chance=context.chance)
    return result


def _errors(context: TaskContext) -> dict[str, Any]:
    aliases, columns = context.space.aliases, context.columns
    parts = (context.answers, columns.metric, context.resampler)
    solo = {alias: columns.coalition_cells([alias]) for alias in aliases}
    whole = columns.coalition_cells(aliases)
    result: dict[str, Any] = {
        "overlap": pair_overlap(*parts, solo),
        "overlap_note": CONVENTION,
        "ensemble": ensemble_overlap(*parts, solo, whole=whole),
        "exclusive": exclusive_sets(*parts, solo),
        "information": shared_information(context.answers, columns.metric, solo),
        "flips": not_run("a single encoder has no others to compare with"),
    }
    if len(aliases) > 1:
        without = {a: columns.coalition_cells([other for other in aliases if other != a]) for a in aliases}
        result["flips"] = flips(*parts, without=without, whole=whole)
    return result


def _secondary(context: TaskContext) -> dict[str, Leaf]:
    """Secondary metrics of all encoders together, and of other ways of using them (such as re-ranking)."""
    columns, result = context.columns, {}
    rows = context.answers.rows
    influence = recall_influence(rows) if kind_of(columns.metric) == "directions" else influence_of("accuracy", rows)
    sources = {"": columns.coalition_cells(context.space.aliases)}
    sources.update({f"{mode}_": columns.cells(name) for mode, name in columns.other_modes().items()})
    for prefix, cells in sources.items():
        found = [secondary_statistic(columns.metric, rows, cell) for cell in cells]
        statistics = [statistic for _, statistic in found if statistic is not None]
        if len(statistics) != len(cells):
            continue
        draws = context.resampler.draw(statistics, influence=influence)
        for column, name in enumerate(found[0][0]):
            if name == "rsum":
                points = replace(draws, shares=draws.shares and draws.shares.scaled(column, 600.0))
                result[prefix + name] = leaf(points, column, n=context.n, bounds=(0.0, 600.0))
                result[prefix + name]["unit"] = "sum of six recalls in points, 0 to 600"
                continue
            direction = name.partition("_")[2] if kind_of(columns.metric) == "directions" else ""
            n = int((rows.directions == direction).sum()) if direction else context.n
            result[prefix + name] = leaf(draws, column, n=n, bounds=SHARE)
    return result
