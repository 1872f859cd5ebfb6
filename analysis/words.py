"""Words for numbers: every sentence of the report is made here, and none without its interval.

Handed leaves of results.json; hands on short texts. Shares are given in percent, differences in points;
wording depends on where the interval lies, so that a sentence cannot say more than its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.leaves import Leaf, is_run
from analysis.verdict import undecidable

TASK_TITLES = {
    "flickr30k": "Flickr30k retrieval",
    "coco": "COCO retrieval",
    "vqa": "VQA",
    "gqa": "GQA",
    "snli_ve": "SNLI-VE",
    "hateful_memes": "Hateful Memes",
}
METRIC_TITLES = {
    "accuracy": "accuracy",
    "vqa_accuracy": "VQA accuracy",
    "auroc": "AUROC",
    "mean_recall": "mean recall",
}
ABSENT = {
    "drop": "leaving the sequence",
    "zero": "zeros in their tokens' places in the sequence",
    "mean": "their tokens' mean over training images in the sequence",
    "permuted": "another image's tokens in the sequence",
}
LONGEST = 60


def title_of(task: str) -> str:
    """A task's customary name."""
    return TASK_TITLES.get(task, task)


def metric_title(metric: str) -> str:
    """A metric's customary name."""
    return METRIC_TITLES.get(metric, metric)


def short(text: str, *, longest: int = LONGEST) -> str:
    """A string from a dataset, cut so that it cannot flood the page."""
    text = " ".join(str(text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def number(value: int | float, *, scale: int | float = 1.0, digits: int = 1, sign: bool = False) -> str:
    """A number with a true minus sign and no negative zero."""
    text = f"{value * scale:+.{digits}f}" if sign else f"{value * scale:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def with_interval(
    leaf: Leaf, *, scale: int | float = 1.0, digits: int = 1, unit: str = "", sign: bool = False
) -> str:
    """Value and interval, or that it was not run."""
    if not is_run(leaf):
        return "not run"
    value = number(leaf["value"], scale=scale, digits=digits, sign=sign) + unit
    if leaf["ci95"] is None:
        return f"{value} (no interval)"
    low, high = (number(end, scale=scale, digits=digits) for end in leaf["ci95"])
    return f"{value} ({low} to {high})"


def percent(leaf: Leaf) -> str:
    """A share, such as `61.2 % (58.9 to 63.5)`."""
    return with_interval(leaf, scale=100.0, unit="\u00a0%")


def compact(leaf: Leaf) -> str:
    """A share in percent without its unit, for narrow tables."""
    return with_interval(leaf, scale=100.0)


def points(leaf: Leaf) -> str:
    """A difference, such as `+3.1 pt (1.2 to 5.0)`."""
    return with_interval(leaf, scale=100.0, unit="\u00a0pt", sign=True)


def plain_words(leaf: Leaf) -> str:
    """A coefficient over encoders, or why there is none."""
    if not is_run(leaf):
        return f"not run ({leaf['not_run']})"
    return f"{with_interval(leaf, digits=2)} over {leaf['n']:,} encoders"


def coalition_words(encoders: Sequence[str]) -> str:
    """A coalition as people write it."""
    return " + ".join(encoders) if encoders else "none (text only)"


def p_words(p: float) -> str:
    """A p-value with the precision that resampling gives."""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"


def compare(leaf: Leaf, *, what: str) -> str:
    """A difference from a reference as a clause, worded by its interval."""
    if not is_run(leaf):
        return f"not compared with {what} ({leaf['not_run']})"
    size = with_interval({**leaf, "value": abs(leaf["value"])}, scale=100.0, unit="\u00a0pt")
    low, high = leaf["ci95"]
    if high < 0:
        size = with_interval(
            {"value": -leaf["value"], "ci95": [-high, -low], "n": leaf["n"]}, scale=100.0, unit="\u00a0pt"
        )
        return f"{size} below {what}"
    return f"{size} above {what}" if low > 0 else f"not told apart from {what} ({points(leaf)})"


def headline(task: dict[str, Any]) -> str:
    """What all encoders together achieve, against the floor and the best single encoder."""
    full = task["coalitions"][-1]
    best = task["best_single"]
    single = f"the best single encoder, {best['encoder']}" if is_run(best) else "the best single encoder"
    floor = f"the floor ({task['floor']['source']})"
    metric = metric_title(task["metric"])
    return (
        f"All encoders together reach {percent(full)} {metric} on {task['n']:,} examples of "
        f"{task['images']:,} images (chance {number(task['chance'], scale=100.0)}\u00a0%): "
        f"{compare(task['gain_over_floor'], what=floor)}, "
        f"and {compare(task['gain_over_best_single'], what=single)}."
    )


def verdict_sentence(
    entry: dict[str, Any],
    interactions: Sequence[dict[str, Any]],
    overlap: Sequence[dict[str, Any]] = (),
    *,
    may_be_ceiling: bool = False,
) -> str:
    """What dropping one encoder does, worded by grade, and with whom it shares what it knows and where it errs.

    Args:
        may_be_ceiling: interactions are known in the metric alone.
    """
    gain, name = entry["gain"], entry["encoder"]
    if not is_run(gain):
        return f"{name}: not evaluated ({gain['not_run']})."
    evidence = f"Holm {p_words(entry['p_holm'])}"
    smallest = number(entry["detectable"], scale=100.0)
    found = f"{smallest}\u00a0pt or more" if entry["detectable"] < 1 else "no difference"
    detectable = f"among {entry['comparisons']} comparisons this design detects {found}"
    low, high = gain["ci95"]
    size = with_interval(gain, scale=100.0, unit="\u00a0pt")
    reason = undecidable(entry["lacking"])
    if reason is not None:
        text = f"what {name} adds cannot be told, as {reason}"
    elif entry["grade"] == "redundant":
        text = f"dropping {name} changes the score by {points(_negated(gain))}, within the 1\u00a0pt margin"
        if "together" in entry:
            text += f"; dropping {coalition_words(entry['together']['encoders'])} together {_cost(entry['together'])}"
    elif entry["grade"] == "harmful":
        text = f"dropping {name} adds {points(_negated(gain))}; {evidence}"
    elif entry["grade"] == "undetermined":
        kind = "its interval includes zero" if low <= 0 <= high else "which does not survive correction"
        text = f"dropping {name} costs {size}; {kind} ({evidence}; {detectable})"
    else:
        text = f"dropping {name} costs {size}; {evidence}"
    shared = _partners(entry, interactions, overlap)
    hedge = " (in the metric, whose ceiling could do that too)" if shared and may_be_ceiling else ""
    return f"{text[0].upper()}{text[1:]}.{shared}{hedge}{'.' if shared else ''}"


def _cost(leaf: Leaf) -> str:
    return f"costs {points(leaf)}" if is_run(leaf) else f"was not evaluated ({leaf['not_run']})"


def _partners(
    entry: dict[str, Any], interactions: Sequence[dict[str, Any]], overlap: Sequence[dict[str, Any]]
) -> str:
    """Who could stand in for an encoder: interaction, and error consistency where it is known."""
    said = []
    for alias in entry["replaceable_by"]:
        pair = {entry["encoder"], alias}
        words = f"{alias}, interaction {next(points(i) for i in interactions if set(i['encoders']) == pair)}"
        kappa = next((one["error_consistency"] for one in overlap if set(one["encoders"]) == pair), None)
        if kappa is not None and is_run(kappa):
            words += f", κ\u00a0{with_interval(kappa, digits=2)}"
        said.append(words)
    return f" Shares what it knows with {'; '.join(said)}" if said else ""


def _negated(leaf: Leaf) -> Leaf:
    low, high = leaf["ci95"]
    return {**leaf, "value": -leaf["value"], "ci95": [-high, -low]}


def claim_words(task: dict[str, Any]) -> str:
    """Whether complementarity is claimed, with the smallest gain over a control or with what stands against it."""
    claim = task["complementarity"]
    if not claim["claimed"]:
        return f"Complementarity is not claimed: {'; '.join(claim['lacking'])}."
    least = min(claim["comparisons"], key=lambda one: float(one["gain"]["value"]))
    return (
        f"All encoders together gain over every control; the least, {points(least['gain'])}, over {least['control']}"
        f" (Holm {p_words(least['p_holm'])} over {len(claim['comparisons'])} comparisons of this task)."
    )


def image_use_words(task: dict[str, Any]) -> str:
    """Whether the evaluation looks at the image."""
    found = task["image_use"]
    if "not_run" in found:
        return f"Whether the image is looked at was not tested ({found['not_run']})."
    size, margin = points(found["difference"]), number(found["margin"], scale=100.0)
    tail = f"the right image instead of another one changes the score by {size}"
    if found["state"] == "image-blind":
        test = f"TOST {p_words(found['p_equivalent'])}"
        return f"Image-blind: {tail}, equivalent to nothing within {margin}\u00a0pt ({test})."
    if found["state"] == "cannot tell":
        detectable = f"{number(found['detectable'], scale=100.0)}\u00a0pt or more"
        return f"One cannot tell whether the image is looked at: {tail}; this design detects {detectable}."
    return f"{found['state'].capitalize()}: {tail}."


def attention_flag_words(flag: dict[str, Any]) -> str:
    """An encoder of which attention and ablation say different things."""
    lift = number(flag["lift"]["value"], digits=2)
    said = f"its Shapley value is {points(flag['shapley'])}"
    return f"{flag['encoder']}: {flag['flag']} (lift {lift}, without interval; {said})."


def is_retrained(results: dict[str, Any]) -> bool:
    """Whether every coalition of the run has a model of its own."""
    modes = {entry["mode"] for task in results["tasks"].values() for entry in task["coalitions"]}
    return modes == {"retrained"}


def world_lines(results: dict[str, Any]) -> list[str]:
    """That a run answered rendered pictures, where it did: its tasks bear the names of real datasets."""
    config = results["provenance"]["config"]
    if "data" not in config or config["data"] is not None:
        return []
    return [
        "These are answers to the embedded world: rendered pictures and texts in the formats of the datasets, not the"
        " datasets. No number here is one of a published benchmark."
    ]


def removal_of(task: dict[str, Any]) -> str:
    """What became of absent encoders in the table of coalitions."""
    return str(task["coalitions"][-1]["removal"])


def removal_words(results: dict[str, Any]) -> str:
    """What it means that an encoder is absent."""
    if not is_retrained(results):
        ways = dict.fromkeys(ABSENT[removal_of(task)] for task in results["tasks"].values())
        return (
            f"Encoders are absent by {' or '.join(ways)} of one model that was trained for it; a model trained for one"
            " coalition alone may do better."
        )
    return (
        "Every coalition has a model of its own, trained on it alone, that of no encoder on text alone: what an encoder"
        " adds is the difference between two trainings, of which a single seed shows one draw."
    )


def training_words(task: dict[str, Any]) -> str:
    """How long the model was trained, and whether its score still moved."""
    if not isinstance(task["steps"], int):
        return "How long the model was trained is not recorded."
    still = "more than 1\u00a0pt, so longer training may change what it shows"
    state = "at most 1\u00a0pt" if task["converged"] else still
    moved = f"validation moved over the last fifth of them by {state}"
    if task["coalitions"][-1]["mode"] == "retrained":
        return f"Each coalition's own model saw {task['steps']:,} steps; {moved}."
    return f"The model saw {task['steps']:,} steps; {moved}."


def blind_lines(task: dict[str, Any]) -> list[str]:
    """That the blind model was trained otherwise than the table's, where it was."""
    blind, steps = task.get("blind_steps"), task["steps"]
    if not isinstance(blind, int) or not isinstance(steps, int) or blind == steps:
        return []
    return [f"The blind model saw {blind:,} steps, the others {steps:,}: its score may not be the best of its kind."]
