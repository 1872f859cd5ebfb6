"""The results of one task: its entry in results.json.

Handed the task's answers on the evaluated split and on the one for choices, and the run's side files; hands
on the dictionary of leaves. All numbers of a task come from the same resampled images, so differences are
paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.answers import TaskAnswers
from analysis.attention import AttentionRow, agreement_with_shapley, attention_of
from analysis.bootstrap import Draws, Resampler
from analysis.coalition_values import CoalitionSpace
from analysis.columns import CONTROLS, Columns, task_columns
from analysis.floor import find_floor
from analysis.leaves import Leaf, leaf, not_run
from analysis.metric_values import METRICS, metric_of, metric_statistic, secondary_statistic
from analysis.overlap import CONVENTION, flips, pair_overlap
from analysis.run_files import RunFiles, training_of
from analysis.slices import slice_results
from analysis.verdict import detectable_difference, is_binary, lacking_for_established, mcnemar_exact


@dataclass(frozen=True)
class TaskContext:
    """Everything that the parts of a task's results are computed from."""

    columns: Columns
    resampler: Resampler
    values: Draws
    extra: dict[str, Draws]
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

    def per_encoder(self, draws: Draws) -> dict[str, Leaf]:
        """One leaf per encoder."""
        undefined = "undefined: all encoders together score 0"
        return {a: leaf(draws, c, n=self.n, undefined=undefined) for c, a in enumerate(self.space.aliases)}


def task_results(
    answers: TaskAnswers,
    selection: TaskAnswers | None,
    files: RunFiles,
    attention: list[AttentionRow] | None,
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """One task's entry; verdicts still lack what is corrected over all tasks."""
    baseline = files.baseline(answers.task)
    any_cell = next(iter(answers.cells[answers.seeds[0]].values()))
    metric = metric_of(answers.task, baseline.get("metric"), answers.rows, any_cell)
    columns = task_columns(answers, metric, CoalitionSpace(files.encoders))
    resampler = _resampler(answers, answers.task, num_resamples, seed)
    chance = float(baseline["chance"])
    values = columns.coalition_draws(resampler, chance=chance)
    context = TaskContext(columns, resampler, values, columns.extra_draws(resampler), chance)
    shapley = context.per_encoder(values.linear(context.space.shapley()))
    looked = attention_of(attention, answers.task, files.encoders)
    return {
        "metric": metric,
        "split": answers.split,
        "chance": chance,
        "majority": baseline.get("majority"),
        "n": context.n,
        "images": answers.rows.num_clusters,
        "seeds": list(answers.seeds),
        **training_of(files, answers.task),
        "coalitions": _coalition_leaves(context),
        "shapley": shapley,
        **_derived(context),
        "attention": looked,
        "attention_vs_shapley": agreement_with_shapley(looked, shapley),
        **_errors(context),
        **_comparisons(context, selection, num_resamples, seed),
        "slices": slice_results(answers.rows, columns, context.space, resampler, chance=chance),
        "secondary": _secondary(context),
        "verdict": _verdicts(context),
    }


def _resampler(answers: TaskAnswers, name: str, num_resamples: int, seed: int) -> Resampler:
    return Resampler(
        name,
        num_clusters=answers.rows.num_clusters,
        num_seeds=len(answers.seeds),
        num_resamples=num_resamples,
        seed=seed,
    )


def _coalition_leaves(context: TaskContext) -> list[dict[str, Any]]:
    leaves = []
    for column, coalition in enumerate(context.space.coalitions):
        entry = {"encoders": list(coalition), "mode": "masked", "removal": "drop"}
        entry.update(leaf(context.values, column, n=context.n, chance=context.chance))
        if column == 0 and context.columns.empty_by_definition:
            entry["by_definition"] = "chance"
        leaves.append(entry)
    return leaves


def _derived(context: TaskContext) -> dict[str, Any]:
    values, space, n = context.values, context.space, context.n
    pairs, moebius = values.linear(space.interaction(2)), values.linear(space.moebius())
    gap = values.apply(space.information_gap)
    share = values.apply(space.interaction_share)
    return {
        "interaction": [{"encoders": list(p), **leaf(pairs, c, n=n)} for c, p in enumerate(space.sets(2))],
        "moebius": [{"encoders": list(s), **leaf(moebius, c, n=n)} for c, s in enumerate(space.coalitions)],
        "leave_one_out": context.per_encoder(values.linear(space.leave_one_out())),
        "solo": context.per_encoder(values.linear(space.solo())),
        "cur": context.per_encoder(values.apply(space.cur)),
        "information_gap": leaf(gap, 0, n=n, undefined="undefined: all encoders together score 0"),
        "interaction_share": leaf(share, 0, n=n, undefined="undefined: all coalitions score alike"),
    }


def _errors(context: TaskContext) -> dict[str, Any]:
    aliases, columns = context.space.aliases, context.columns
    solo = {alias: columns.coalition_cells([alias]) for alias in aliases}
    result: dict[str, Any] = {
        "overlap": pair_overlap(context.answers, columns.metric, context.resampler, solo),
        "overlap_note": CONVENTION,
        "flips": not_run("a single encoder has no others to compare with"),
    }
    if len(aliases) > 1:
        without = {a: columns.coalition_cells([other for other in aliases if other != a]) for a in aliases}
        whole = columns.coalition_cells(aliases)
        result["flips"] = flips(
            context.answers, columns.metric, context.resampler, without=without, whole=whole
        )
    return result


def _comparisons(
    context: TaskContext, selection: TaskAnswers | None, num_resamples: int, seed: int
) -> dict[str, Any]:
    values, space, n, chance = context.values, context.space, context.n, context.chance
    full = values.columns([space.full])
    floor = find_floor(
        values.columns([0]),
        full,
        blind=context.extra.get("blind"),
        by_definition=context.columns.empty_by_definition,
    )
    controls: dict[str, Leaf] = {}
    for name in (*CONTROLS, *(mode for mode in context.extra if mode not in CONTROLS)):
        why = _why_no_control(name, context)
        draws = context.extra.get(name)
        controls[name] = leaf(draws, 0, n=n, chance=chance) if draws is not None else not_run(why)
    known = {name: controls.pop(name) for name in CONTROLS}
    return {
        **floor.leaves(n=n, chance=chance),
        **_best_single(context, selection, num_resamples, seed),
        "controls": known,
        "other_modes": controls,
        "control_gains": {name: leaf(_minus(full, draws), 0, n=n) for name, draws in context.extra.items()},
    }


def _why_no_control(name: str, context: TaskContext) -> str:
    if name == "blind" and context.columns.empty_by_definition:
        return "without images retrieval is chance by definition"
    return "this control was not asked for" if name in ("blind", "shuffled") else "needs --controls full"


def _minus(first: Draws, second: Draws) -> Draws:
    return Draws(first.point - second.point, first.samples - second.samples)


def _best_single(
    context: TaskContext, selection: TaskAnswers | None, num_resamples: int, seed: int
) -> dict[str, Any]:
    """The best single encoder, chosen on validation answers and valued on the evaluated split."""
    if selection is None:
        why = not_run(
            "the run holds no validation answers (split 'select') to choose the best single encoder on"
        )
        return {"best_single": why, "gain_over_best_single": why}
    aliases = context.space.aliases
    selection.require([(alias,) for alias in aliases])
    chosen_on = Columns(selection, context.columns.metric, context.space, {})
    per_seed = zip(*(chosen_on.coalition_cells([alias]) for alias in aliases), strict=True)
    statistics = [metric_statistic(context.columns.metric, selection.rows, list(cells)) for cells in per_seed]
    choice = _resampler(selection, f"{selection.task}.select", min(num_resamples, 500), seed).draw(statistics)
    best = int(np.nanargmax(choice.point))
    column, n = context.space.column([aliases[best]]), context.n
    full, single = context.values.columns([context.space.full]), context.values.columns([column])
    return {
        "best_single": {
            "encoder": aliases[best],
            **leaf(single, 0, n=n, chance=context.chance),
            "chosen_on": {a: leaf(choice, c, n=len(selection.rows.ids)) for c, a in enumerate(aliases)},
        },
        "gain_over_best_single": leaf(_minus(full, single), 0, n=n),
    }


def _secondary(context: TaskContext) -> dict[str, Leaf]:
    """Secondary metrics of all encoders together, and of other ways of using them (such as re-ranking)."""
    columns, result = context.columns, {}
    sources = {"": columns.coalition_cells(context.space.aliases)}
    others = {mode: name for mode, name in columns.extra.items() if mode not in CONTROLS}
    sources.update({f"{mode}_": columns.cells(name) for mode, name in others.items()})
    for prefix, cells in sources.items():
        found = [secondary_statistic(columns.metric, context.answers.rows, cell) for cell in cells]
        statistics = [statistic for _, statistic in found if statistic is not None]
        if len(statistics) != len(cells):
            continue
        draws = context.resampler.draw(statistics)
        for column, name in enumerate(found[0][0]):
            result[prefix + name] = leaf(draws, column, n=context.n)
            if name == "rsum":
                result[prefix + name]["unit"] = "sum of six recalls in points, 0 to 600"
    return result


def _verdicts(context: TaskContext) -> list[dict[str, Any]]:
    space, aliases = context.space, context.space.aliases
    gains = context.values.linear(space.leave_one_out())
    full = context.values.columns([space.full])
    over = {name: leaf(_minus(full, draws), 0, n=context.n) for name, draws in context.extra.items()}
    removals = {n.removal for cells in context.answers.cells.values() for n in cells if n.mode == "masked"}
    lacking = lacking_for_established(len(context.answers.seeds), over, num_removals=len(removals))
    entries = []
    for column, alias in enumerate(aliases):
        p, method = _p_value(context, gains, column, [other for other in aliases if other != alias])
        entries.append(
            {
                "encoder": alias,
                "gain": leaf(gains, column, n=context.n),
                "p": round(p, 6),
                "p_method": method,
                "detectable": round(detectable_difference(gains.standard_error(column)), 6),
                "lacking": lacking,
            }
        )
    return entries


def _p_value(context: TaskContext, gains: Draws, column: int, others: Sequence[str]) -> tuple[float, str]:
    """Exact McNemar where it applies (one seed, right or wrong, one example an image), else the bootstrap."""
    one_each = context.answers.rows.num_clusters == context.n and len(context.answers.seeds) == 1
    if METRICS[context.columns.metric] == "mean" and one_each:
        [whole] = context.columns.coalition_cells(context.space.aliases)
        [rest] = context.columns.coalition_cells(others)
        if is_binary(whole.score, rest.score):
            gained, lost = int((whole.score > rest.score).sum()), int((whole.score < rest.score).sum())
            return mcnemar_exact(gained, lost), "exact McNemar"
    return gains.p_value(column), "paired bootstrap over images"
