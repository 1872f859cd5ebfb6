"""Sections with one part per task: scores, contributions, interactions, errors, examples, controls, removals, slices,
attention.

Handed results; hands on sections. What a task lacks is left out of its part, and named in the section of limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from analysis import evidence_tables, figures, matrix_figures, tables
from analysis.blocks import Block, Example, Examples, Group, Section
from analysis.comparison_figures import gain_figure
from analysis.sentences import (
    contribution_lines,
    error_lines,
    example_words,
    flip_words,
    interaction_lines,
    removal_lines,
    slice_lines,
)
from analysis.words import (
    attention_flag_words,
    blind_lines,
    claim_words,
    image_use_words,
    is_retrained,
    plain_words,
    removal_words,
    short,
    title_of,
)

SHOWN_EXAMPLES = 3
"""Of each kind and encoder."""

Task = dict[str, Any]


def task_sections(results: dict[str, Any]) -> list[Section]:
    """In the order of the page."""
    return [
        _scores(results),
        _contributions(results),
        _interactions(results),
        _errors(results),
        _examples(results),
        _controls(results),
        _removals(results),
        _slices(results),
        _attention(results),
    ]


def _per_task(
    results: dict[str, Any],
    key: str,
    title: str,
    lead: Sequence[str],
    blocks: Callable[[str, Task], Sequence[Block | None]],
    lines: Callable[[Task], Sequence[str]] = lambda task: (),
) -> Section:
    """A section with a group for each task; blocks that a task lacks are None."""
    groups = [
        Group(title_of(name), lines(task), [block for block in blocks(name, task) if block is not None])
        for name, task in results["tasks"].items()
    ]
    return Section(key, title, lead, [group for group in groups if group.blocks or group.lines])


def _scores(results: dict[str, Any]) -> Section:
    def blocks(name: str, task: Task) -> list[Block | None]:
        drawn = figures.coalition_figure(name, task, results["encoders"])
        secondary = tables.secondary_table(name, task) if task["secondary"] else None
        return [drawn, tables.coalition_table(name, task), secondary]

    lead = [
        "Each column is one coalition of encoders; dots below say who is present, single encoders are orange. The "
        "floor is the better of the text-only coalition and the blind model; the best single encoder was chosen on "
        "validation. Bars are 95 % intervals."
    ]
    if is_retrained(results):
        lead.append(removal_words(results))
    return _per_task(results, "scores", "Scores", lead, blocks)


def _contributions(results: dict[str, Any]) -> Section:
    def blocks(name: str, task: Task) -> list[Block | None]:
        return [
            figures.contribution_figure(name, task, results["encoders"]),
            tables.contribution_table(name, task),
            tables.evidence_table(name, task),
            tables.logprob_table(name, task),
            tables.share_table(name, task),
        ]

    lead = [
        "Shapley shares out the whole gain over no encoders; leave-one-out is what is lost when only this one is "
        "dropped, and is zero for both of two duplicates; solo is what it adds when alone. Rescues and harms are the "
        "examples that its presence turns right or wrong. CUR is leave-one-out as a share of the value of all."
    ]
    return _per_task(results, "contributions", "Contributions", lead, blocks, contribution_lines)


def _interactions(results: dict[str, Any]) -> Section:
    def blocks(name: str, task: Task) -> list[Block | None]:
        if not task["interaction"]:
            return []
        return [
            matrix_figures.interaction_figure(name, task, results["encoders"]),
            matrix_figures.logprob_figure(name, task, results["encoders"]),
            figures.moebius_figure(name, task),
            *tables.interaction_tables(name, task),
        ]

    lead = [
        "Pairwise Shapley interaction: negative means that two encoders know the same, positive that they achieve more "
        "together than apart. Near the ceiling of a metric every pair looks redundant, so the same is shown in "
        "log-probability. A Möbius coefficient is what a set gives beyond all its parts."
    ]
    return _per_task(results, "interactions", "Interactions", lead, blocks, interaction_lines)


def _errors(results: dict[str, Any]) -> Section:
    def blocks(name: str, task: Task) -> list[Block | None]:
        drawn: list[Block | None] = []
        if task["overlap"]:
            drawn = [
                matrix_figures.consistency_figure(name, task, results["encoders"]),
                matrix_figures.double_fault_figure(name, task, results["encoders"]),
            ]
        return [
            *drawn,
            figures.exclusive_figure(name, task, results["encoders"]),
            evidence_tables.overlap_table(name, task),
            evidence_tables.exclusive_table(name, task),
            evidence_tables.ensemble_table(name, task),
            evidence_tables.information_table(name, task),
        ]

    note = next(iter(results["tasks"].values()))["overlap_note"]
    lead = [
        "Encoders, each alone. Error consistency κ is 0 for independent errors and 1 for identical ones; double fault "
        "is the share of examples that both get wrong; the bars count examples that exactly the marked encoders get "
        "right. Any second guesser raises a union, which shows no complementarity by itself: compare it with two seeds "
        f"of one encoder. Convention: {note}."
    ]
    return _per_task(results, "errors", "Errors", lead, blocks, error_lines)


def _examples(results: dict[str, Any]) -> Section:
    def blocks(name: str, task: Task) -> list[Block | None]:
        if "not_run" in task["flips"]:
            return []
        made: list[Block | None] = []
        for alias, flip in task["flips"].items():
            for key, verb in (("rescued", "turns right"), ("harmed", "turns wrong")):
                items = [_example(name, alias, example) for example in flip[key][:SHOWN_EXAMPLES]]
                made.append(Examples(f"{alias} {verb}", items) if items else None)
        return [*made, evidence_tables.flip_table(name, task)]

    def lines(task: Task) -> list[str]:
        if "not_run" in task["flips"]:
            return [f"Not run: {task['flips']['not_run']}."]
        return [flip_words(alias, flip) for alias, flip in task["flips"].items()]

    lead = [
        "Examples that the presence of one encoder turns right (rescued) or wrong (harmed), with all others present: "
        "the first of those that flip under most seeds. A few examples illustrate; the shares with their intervals "
        "count. Right means at least half of what an example can score: in retrieval, an item of its own among the "
        "first five, while what is shown with and without the encoder is the item ranked first."
    ]
    return _per_task(results, "examples", "Examples", lead, blocks, lines)


def _example(task: str, alias: str, example: dict[str, Any]) -> Example:
    """Answers with and without an encoder, beside what is right."""
    said = {
        "right": example_words(example, "target"),
        f"with {alias}": example_words(example, "with"),
        f"without {alias}": example_words(example, "without"),
    }
    text = example.get("text", "")
    return Example(task, example["image"], short(example["id"], longest=40), short(text, longest=160), said)


def _controls(results: dict[str, Any]) -> Section:
    lead = [
        "Blind is a separate model trained without images; shuffled pairs each text with another image. The others ask "
        "whether more of the same would have done as well: one encoder several times over (duplicate), its other seeds "
        "or views (seeds), one of equal size (matched), single models averaged. What was not run says so."
    ]
    return _per_task(
        results,
        "controls",
        "Controls",
        lead,
        lambda name, task: [gain_figure(name, task), evidence_tables.control_table(name, task)],
        lambda task: [claim_words(task), image_use_words(task), *blind_lines(task)],
    )


def _removals(results: dict[str, Any]) -> Section:
    lead = [
        "How much of this depends on how an encoder is taken away: its tokens leave the sequence; or zeros, their "
        "mean or another image's features take their place; or a model is trained without it. All else in this report "
        "removes encoders as training did."
    ]
    return _per_task(
        results,
        "sensitivity",
        "Sensitivity",
        lead,
        lambda name, task: [
            evidence_tables.removal_table(name, task),
            evidence_tables.removal_values(name, task),
        ],
        removal_lines,
    )


def _slices(results: dict[str, Any]) -> Section:
    encoders = results["encoders"]
    lead = [
        "Shapley value of each encoder in points within each part of the test set (n in brackets). These are many "
        "comparisons; p-values are corrected for false discovery after Benjamini and Hochberg (BH)."
    ]
    return _per_task(
        results,
        "slices",
        "Slices",
        lead,
        lambda name, task: [
            matrix_figures.slice_figure(name, task, encoders),
            *tables.slice_tables(name, task, encoders),
        ],
        lambda task: slice_lines(task, encoders),
    )


def _attention(results: dict[str, Any]) -> Section:
    encoders = results["encoders"]

    def lines(task: Task) -> list[str]:
        said = [
            f"Rank correlation of lift with {what}: {plain_words(task[key])}."
            for key, what in (
                ("attention_vs_shapley", "the Shapley value"),
                ("attention_vs_leave_one_out", "leave-one-out"),
            )
        ]
        return [*said, *(attention_flag_words(flag) for flag in task["attention_flags"])]

    lead = [
        "Warning: attention describes where the model looks; it does not say what the answer owes to it. An encoder "
        "can draw attention and add nothing. Judge by ablation; both stand side by side here. Lift is the share of the "
        "encoders' attention over the share of their tokens; 1 is indifference."
    ]
    return _per_task(
        results,
        "attention",
        "Attention",
        lead,
        lambda name, task: [
            figures.attention_figure(name, task, encoders),
            *tables.attention_tables(name, task, encoders),
        ],
        lines,
    )
