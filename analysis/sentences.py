"""Sentences about what surrounds a verdict: removals, errors, cost, examples, and what bounds it all.

Handed results of a task or a run; hands on sentences, each with the interval of the number that it says, and with
words that depend on where the interval lies. Sentences of the verdict itself are in `words`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.controls import CONTROLS
from analysis.fronts import COSTS, cheapest_within
from analysis.image_use import MARGIN
from analysis.leaves import Leaf, is_run
from analysis.power import LEVEL
from analysis.removals import REMOVALS
from analysis.words import (
    coalition_words,
    number,
    p_words,
    percent,
    points,
    removal_of,
    removal_words,
    short,
    title_of,
    with_interval,
)

BY_ANSWER = "label"
"""The slice column that holds each example's right answer."""
NOTHING_SHOWN = 3
DIRECTIONS = {"i2t": "Image-to-text", "t2i": "Text-to-image"}
MARGIN_WORDS = f"{number(MARGIN, scale=100.0, digits=0)}\u00a0pt"


def interaction_lines(task: dict[str, Any]) -> list[str]:
    """The share of interactions in both scales, and pairs that only the metric calls redundant."""
    lines = [_share_words(task["interaction_share"], where="in the metric")]
    nats = task["logprob"]
    if "not_run" in nats:
        return [*lines, f"In log-probability: not run ({nats['not_run']})."]
    lines.append(_share_words(nats["interaction_share"], where="in log-probability"))
    of_metric = {tuple(entry["encoders"]): entry for entry in task["interaction"]}
    lines += [
        f"{coalition_words(pair)} look redundant in the metric alone ({points(of_metric[tuple(pair)])}): a ceiling of "
        "the metric does that too."
        for pair in nats["only_in_the_metric"]
    ]
    return lines


def _share_words(leaf: Leaf, *, where: str) -> str:
    if not is_run(leaf):
        return f"Share of interactions {where}: not run ({leaf['not_run']})."
    return f"Interactions explain {percent(leaf)} of the variance between coalitions {where}."


def contribution_lines(task: dict[str, Any]) -> list[str]:
    """How unequal the encoders are in what only they give."""
    gap = task["information_gap"]
    if not is_run(gap):
        return [f"Information gap: not run ({gap['not_run']})."]
    return [f"Information gap, the largest less the smallest CUR: {with_interval(gap, digits=2)}."]


def error_lines(task: dict[str, Any]) -> list[str]:
    """What the encoders could achieve together, and how much of that they do; information where it was computed."""
    found = task["ensemble"]
    lines = []
    if is_run(found["union"]):
        lines.append(
            f"On {percent(found['union'])} of the examples some encoder alone is right; independent errors would give "
            f"{percent(found['union_independent'])}."
        )
    captured = found["headroom_captured"]
    if is_run(captured):
        low, high = captured["ci95"]
        tail = "" if low > 0 or high < 0 else ", not told apart from none"
        lines.append(
            "Of the headroom between the best single encoder and that union, all together capture "
            f"{percent(captured)}{tail}."
        )
    if "not_run" in task["information"]:
        lines.append(f"Information in bits: not run ({task['information']['not_run']}).")
    return lines


def slice_lines(task: dict[str, Any], encoders: Sequence[str]) -> list[str]:
    """The largest contribution of each encoder that is shown, and where beside that nothing of it is.

    The largest of several is not shown to be larger than the others, and its value flatters it.
    """
    if not task["slices"]:
        return []
    told = {name: values for name, values in task["slices"].items() if name != BY_ANSWER}
    lines = [_slice_words(alias, told) for alias in encoders] if told else []
    lines += _thin_words(task["slices"])
    if BY_ANSWER in task["slices"]:
        lines.append(
            f"Slices by the right answer ({BY_ANSWER}) also show which answers an encoder makes the model prefer: a "
            "loss in one may be the price of a gain in another."
        )
    return lines


def _slice_words(alias: str, slices: Mapping[str, Mapping[str, Any]]) -> str:
    found = [
        (name, value, one["shapley"][alias])
        for name, values in slices.items()
        for value, one in values.items()
        if "p_bh" in one.get("shapley", {}).get(alias, {})
    ]
    shown = [each for each in found if each[2]["p_bh"] < LEVEL and each[2]["ci95"][0] > 0]
    if not shown:
        return f"{alias}: no slice shows a contribution that survives correction."
    name, value, most = max(shown, key=lambda each: float(each[2]["value"]))
    where = f"{short(name)} = {short(value)}"
    said = f"{alias}: the largest contribution shown is to {where}: {points(most)}, BH {p_words(most['p_bh'])}"
    nothing = [(other, one) for column, other, one in found if column == name and one["ci95"][0] <= 0 <= one["ci95"][1]]
    least = sorted(nothing, key=lambda each: abs(each[1]["value"]))[:NOTHING_SHOWN]
    if least:
        said += "; nothing is shown for " + ", ".join(
            f"{short(name)} = {short(other)}: {points(one)}" for other, one in least
        )
    return f"{said}."


def _thin_words(slices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which directions of retrieval do not count in which slices."""
    thin: dict[str, list[str]] = {}
    for name, values in slices.items():
        for value, one in values.items():
            for direction in one.get("left_out", {}):
                thin.setdefault(direction, []).append(f"{short(name)} = {short(value)}")
    return [
        f"{DIRECTIONS.get(direction, direction)} queries are too few to count in {', '.join(where)}."
        for direction, where in thin.items()
    ]


def removal_lines(task: dict[str, Any]) -> list[str]:
    """Which other ways of removing encoders were evaluated, and whether they rank coalitions alike."""
    lines = []
    absent: dict[str, list[str]] = {}
    usual = REMOVALS[removal_of(task)]
    for way, found in task["sensitivity"].items():
        if "not_run" in found:
            absent.setdefault(found["not_run"], []).append(way)
            continue
        agreement = found["rank_agreement"]
        if is_run(agreement):
            size = with_interval(agreement, digits=2)
            count = agreement.get("coalitions", len(found["coalitions"]))
            lines.append(f"Removal {way!r} ranks {count} coalitions with correlation {size} to {usual}.")
    lines += [f"Not run: {', '.join(ways)} ({why})." for why, ways in absent.items()]
    return lines


def front_lines(task: dict[str, Any], cost: Mapping[str, Any]) -> list[str]:
    """The cheapest coalition whose loss is shown to be within the margin, by each cost."""
    chosen: dict[tuple[str, ...], list[str]] = {}
    found: dict[tuple[str, ...], Leaf] = {}
    for key, label in COSTS.items():
        lacking = cheapest_within(task, cost, key)
        name = tuple(lacking["encoders"]) if lacking is not None else ()
        chosen.setdefault(name if lacking is not None else ("",), []).append(label)
        found[name] = lacking or {}
    lines = []
    for encoders, labels in chosen.items():
        what = ", ".join(labels)
        if encoders == ("",):
            lines.append(f"No smaller coalition is shown to lose less than {MARGIN_WORDS} (by {what}){_closest(task)}.")
        else:
            size = points(found[encoders])
            lines.append(
                f"Cheapest within {MARGIN_WORDS} of all encoders (by {what}): {coalition_words(encoders)}, which lacks "
                f"{size}, an interval that is not corrected for the search."
            )
    return lines


def _closest(task: dict[str, Any]) -> str:
    """The coalition whose loss is bounded best."""
    known = [entry for entry in task["shortfall"] if is_run(entry)]
    if not known:
        return ""
    best = min(known, key=lambda entry: float(entry["ci95"][1]))
    return f"; the closest, {coalition_words(best['encoders'])}, lacks {points(best)}"


def example_words(example: Mapping[str, Any], key: str) -> str:
    """An answer, or the caption behind its id."""
    said = short(example.get("captions", {}).get(key) or example[key], longest=90)
    others = len(example[key].split(" ")) - 1 if example.get("direction") == "i2t" else 0
    return f"{said} (and {others} more)" if others else said


def flip_words(alias: str, flip: Mapping[str, Any]) -> str:
    """How often an encoder turns answers right, and how often wrong."""
    return f"{alias}: rescues {percent(flip['rescue'])} of the examples, harms {percent(flip['harm'])}."


def limit_lines(results: dict[str, Any]) -> list[str]:
    """What bounds everything on the page."""
    tasks = results["tasks"].items()
    unfinished = [title_of(name) for name, task in tasks if task["converged"] is not True]
    absent = [
        control
        for control in CONTROLS
        if any(control in task["complementarity"]["missing"] for task in results["tasks"].values())
    ]
    blind = [title_of(name) for name, task in tasks if task["image_use"].get("state") == "image-blind"]
    left_out = [
        f"{title_of(name)} {sum(task['excluded_images'].values()):,}"
        for name, task in tasks
        if any(task.get("excluded_images", {}).values())
    ]
    lines = [
        results["interval_note"],
        removal_words(results),
        f"Equivalence margin for redundant: {MARGIN_WORDS} either way, asked of each encoder and task by itself: of"
        " many, some may be called so by luck. p-values are corrected after Holm over all encoders and tasks of this"
        " run; those of slices after Benjamini and Hochberg within a task.",
    ]
    if unfinished:
        lines.append(
            "Over the last fifth of training validation still moved by more than 1\u00a0pt, or that is not known: "
            f"{', '.join(unfinished)}."
        )
    if blind:
        lines.append(f"The evaluation does not look at the image: {', '.join(blind)}.")
    if left_out:
        lines.append(f"Images left out with their examples, in all splits together: {', '.join(left_out)}.")
    else:
        lines.append("No image is recorded as left out.")
    if absent:
        lines.append(f"Controls not run on some task: {', '.join(absent)}. Without them nothing is established.")
    return lines
