"""`python -m tasks.score DATASET --data FOLDER --split S --predictions FILE`: official metrics of any system.

Takes a predictions file in the official submission format and prints what the official evaluation would print for it,
with intervals and all breakdowns. Nothing here needs a model. `DATASET` is a task's name, `NAME=SPEC`, or a file with
the user's own task (docs/own_task.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.base import Task
    from tasks.examples import Answer, Split
    from tasks.intervals import Leaf
    from tasks.official_scores import OfficialScores

FOLD = 1000


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m tasks.score", description=__doc__)
    made.add_argument("dataset", help="flickr30k coco vqa gqa snli_ve hateful_memes, NAME=SPEC, or FILE.py")
    made.add_argument("--data", type=Path, required=True, help="the dataset's folder")
    made.add_argument("--split", default="test", help="train, select, test or an official split (default: test)")
    made.add_argument("--predictions", type=Path, required=True, help="a file in the official submission format")
    made.add_argument("--exclude", type=Path, help="a list of images to leave out, as tasks.check --exclude writes it")
    made.add_argument("--baselines", action="store_true", help="read the training split too: majority and prior")
    made.add_argument("--answers", type=Path, help="also write each record's score to this Parquet file")
    made.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    return made


def score(
    task: Task,
    folder: Path,
    split: str,
    predictions: Path,
    *,
    excluded: Sequence[str] = (),
) -> tuple[dict[str, Any], list[Answer]]:
    """All metrics of a predictions file, and the scored answers.

    Args:
        excluded: images whose records are left out, which the result says.

    Raises:
        DatasetError: the dataset's files are not of their format.
        PredictionError: the predictions are not of theirs, or do not fit the split.
        TaskError: the split has no public answers.
    """
    from tasks.official_scores import OfficialScores
    from tasks.published import OTHER_VERSIONS

    whole = task.read(folder, split, embedded="leave")
    data = whole.without(excluded)
    official = OfficialScores()
    if task.scoring == "gallery":
        answers, secondary = _gallery(data, predictions)
    else:
        answers, official = _answers(task, folder, data, predictions)
        secondary = _secondary(answers, official)
    result = {
        "task": task.name,
        "split": split,
        "official_split": data.official,
        "predictions": str(predictions),
        "metric": task.metric,
        "n": len(answers),
        "value": _primary(task, answers, data),
        "secondary": secondary,
        "by": _breakdowns(answers),
        "not_run": dict(official.not_run),
        "excluded_images": list(data.excluded),
        "version": OTHER_VERSIONS.get((task.name, data.official, len(whole.examples)), ""),
    }
    return result | {"printed": _printed(result)}, answers


def _answers(
    task: Task, folder: Path, data: Split, path: Path
) -> tuple[list[Answer], OfficialScores]:
    from dataclasses import replace

    from tasks.errors import TaskError
    from tasks.predictions import matched

    if all(example.target is None for example in data.examples):
        raise TaskError(f"split {data.name!r} of {task.name!r} has no public answers, so it cannot be scored here")
    found = task.predictions(path)
    surplus = "ignore" if data.excluded else task.surplus
    pairs = matched(data.examples, found, path=path, surplus=surplus)
    official = task.official_scores(folder, data, found)
    answers = [task.judge(example, prediction) for example, prediction in pairs]
    if official.scored is not None:
        answers = [answer for answer in answers if answer.id in official.scored]
    extra = official.slices
    return [replace(a, slices={**a.slices, **extra[a.id]}) if a.id in extra else a for a in answers], official


def _secondary(answers: Sequence[Answer], official: OfficialScores) -> dict[str, Leaf]:
    from tasks.intervals import mean_leaf

    images = {answer.id: answer.image for answer in answers}
    found: dict[str, Leaf] = {}
    for name, shares in official.shares.items():
        kept = {key: share for key, share in shares.items() if key in images}
        if kept:
            found[name] = mean_leaf(list(kept.values()), [images[key] for key in kept])
    return found | {name: {"value": value, "ci95": None, "n": len(answers)} for name, value in official.numbers.items()}


def _primary(task: Task, answers: Sequence[Answer], data: Split) -> Leaf:
    """The primary metric: as the task computes it, with the interval of its kind."""
    from tasks.hateful_memes import labelled
    from tasks.intervals import auroc_leaf, mean_leaf, means_leaf
    from tasks.karpathy import by_direction

    value = task.value(answers)
    images = [answer.image for answer in answers]
    if task.scoring == "gallery":
        parts = by_direction(answers).values()
        leaf = means_leaf([([a.score or 0.0 for a in part], [a.image for a in part]) for part in parts])
    elif task.metric == "auroc":
        leaf = auroc_leaf(*labelled(answers), images)
    else:
        leaf = mean_leaf([answer.score or 0.0 for answer in answers], images)
    return leaf | {"value": value, "chance": task.chance(data)}


def _breakdowns(answers: Sequence[Answer]) -> dict[str, dict[str, Leaf]]:
    """Mean score of every part of the set, by slice (and direction)."""
    from tasks.intervals import mean_leaf

    parts: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        if answer.score is not None:
            for key, part in answer.slices.items():
                name = f"{key}_{answer.direction}" if answer.direction else key
                parts.setdefault(name, {}).setdefault(part, []).append(answer)
    return {
        key: {
            part: mean_leaf([a.score or 0.0 for a in found], [a.image for a in found])
            for part, found in sorted(group.items())
        }
        for key, group in sorted(parts.items())
    }


def _gallery(data: Split, path: Path) -> tuple[list[Answer], dict[str, Leaf]]:
    """Answers in both directions, with recalls, rsum and, where there are enough images, COCO's 1K folds."""
    import torch

    from tasks.intervals import mean_leaf
    from tasks.karpathy import by_direction
    from tasks.predictions import read_similarity
    from tasks.retrieval_answers import Gallery, retrieval_answers
    from tasks.retrieval_metrics import CUTOFFS, fold_recalls

    gallery = Gallery.of(data.examples)
    arrays = read_similarity(path, gallery.images, [caption.id for caption in gallery.captions])
    i2t, t2i = (torch.from_numpy(array) for array in arrays)
    answers = retrieval_answers(i2t, data.examples)
    if arrays[0] is not arrays[1]:
        other = retrieval_answers(t2i, data.examples)
        answers = [a for a in answers if a.direction == "i2t"] + [a for a in other if a.direction == "t2i"]
    found: dict[str, Leaf] = {}
    for direction, part in by_direction(answers).items():
        images = [answer.image for answer in part]
        for k in CUTOFFS:
            hits = [float(answer.rank is not None and answer.rank <= k) for answer in part]
            found[f"recall@{k}_{direction}"] = mean_leaf(hits, images)
    found["rsum"] = {"value": 100 * sum(leaf["value"] for leaf in found.values()), "ci95": None, "n": len(answers)}
    counts = torch.bincount(gallery.owner)
    if len(gallery.images) >= FOLD and int(counts.min()) >= 5:
        both = fold_recalls(i2t, gallery.owner), fold_recalls(t2i, gallery.owner)
        n = len(gallery.images) // FOLD * FOLD
        means = {f"1k_recall@{k}_i2t": both[0].i2t[k] for k in CUTOFFS}
        means |= {f"1k_recall@{k}_t2i": both[1].t2i[k] for k in CUTOFFS}
        means["1k_rsum"] = 100 * sum(means.values())
        found |= {name: {"value": value, "ci95": None, "n": n} for name, value in means.items()}
    return answers, found


def _printed(result: Mapping[str, Any]) -> dict[str, float]:
    """Percentages with two digits, as the official scripts print them; rsum and distribution are no fractions."""
    leaves = {result["metric"]: result["value"], **result["secondary"]}
    for key, parts in result["by"].items():
        leaves |= {f"{key}={part}": leaf for part, leaf in parts.items()}
    whole = ("rsum", "1k_rsum", "distribution")
    return {name: round((1 if name in whole else 100) * leaf["value"], 2) for name, leaf in leaves.items()}


def write_answers(answers: Sequence[Answer], path: Path) -> None:
    """One row a record: id, image, direction, prediction, target, score, probability, rank, slices."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    names = sorted({f"slice_{key}" for answer in answers for key in answer.slices})
    fields = ("id", "image", "direction", "prediction", "target", "score", "probability", "rank")
    columns: dict[str, list[object]] = {name: [getattr(a, name) for a in answers] for name in fields}
    columns |= {name: [a.slices.get(name.removeprefix("slice_")) for a in answers] for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _table(result: Mapping[str, Any]) -> str:
    leaves = {result["metric"]: result["value"], **result["secondary"]}
    for key, parts in result["by"].items():
        leaves |= {f"{key}={part}": leaf for part, leaf in parts.items()}
    lines = [f"{result['task']} {result['official_split']}: {result['n']} answers of {result['predictions']}"]
    for name, leaf in leaves.items():
        interval = "" if leaf["ci95"] is None else "  [{:.2f}, {:.2f}]".format(*(100 * end for end in leaf["ci95"]))
        chance = f"  chance {100 * leaf['chance']:.2f}" if leaf.get("chance") is not None else ""
        lines.append(f"{name:32} {result['printed'][name]:7.2f}{interval}  n {leaf['n']}{chance}")
    lines += [f"{name}: not run: {why}" for name, why in result["not_run"].items()]
    if result["version"]:
        lines.append(f"the split is {result['version']}")
    if result["excluded_images"]:
        lines.append(f"{len(result['excluded_images'])} images were excluded")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    flags = parser().parse_args(arguments)
    from tasks import load_task
    from tasks.check import read_exclusions
    from tasks.errors import DatasetError, PredictionError, TaskError

    try:
        task = load_task(flags.dataset)
        excluded = read_exclusions(flags.exclude) if flags.exclude else ()
        result, answers = score(task, flags.data, flags.split, flags.predictions, excluded=excluded)
        if flags.baselines:
            train = task.read(flags.data, "train", embedded="leave")
            data = task.read(flags.data, flags.split, embedded="leave").without(excluded)
            found = task.baselines(train, data)
            result["baselines"] = {"chance": found.chance, "majority": found.majority, "prior": found.prior}
        if flags.answers:
            write_answers(answers, flags.answers)
    except (DatasetError, PredictionError, TaskError, OSError) as error:
        print(f"tasks.score: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if flags.json else _table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
