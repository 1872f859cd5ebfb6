"""results.json: everything that is known about a run, from its folder alone.

Handed a run folder; hands on a dictionary valid against `results.schema.json` and writes it atomically. No
model, encoder or image is needed, and the same folder always gives the same numbers.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from analysis.answers import RunAnswers, load_answers
from analysis.attention import read_attention
from analysis.errors import AnswersError
from analysis.examples import add_texts
from analysis.image_use import MARGIN
from analysis.run_files import RunFiles, cost_of, read_run_files, similarity_of, training_summary
from analysis.task_results import task_results
from analysis.verdict import finish_verdicts

SCHEMA_VERSION = 1
NUM_RESAMPLES = 2000


def assemble(run_folder: Path | str, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Computes every number of a run.

    Args:
        run_folder: a folder as DESIGN.md describes it.
        num_resamples: bootstrap resamples of images (and seeds).
        seed: of the resampling; the same seed gives the same intervals.

    Raises:
        RunFolderError: a file is missing or malformed.
        AnswersError: the answers are misaligned, doubled or incomplete.
    """
    folder = Path(run_folder)
    files = read_run_files(folder)
    answers = load_answers(folder)
    attention = read_attention(folder)
    order = _task_order(files, answers)
    tasks = {
        task: task_results(
            answers.evaluation[task],
            answers.selection.get(task),
            files,
            attention,
            num_resamples=num_resamples,
            seed=seed,
            comparisons=len(order) * len(files.encoders),
        )
        for task in order
    }
    finish_verdicts(tasks, num_resamples=num_resamples)
    add_texts(folder, tasks)
    return {
        "schema": SCHEMA_VERSION,
        "run": str(files.config.get("run") or folder.resolve().name),
        "encoders": list(files.encoders),
        "tasks": tasks,
        "similarity": similarity_of(files),
        "cost": cost_of(files),
        "training": training_summary(files),
        "provenance": {"config": dict(files.config), "environment": dict(files.environment)},
        "statistics": {
            "resamples": num_resamples,
            "seed": seed,
            "interval": "95 %, clustered bootstrap over images, joined with the variance between seeds (Banerjee 1960)",
            "equivalence_margin": MARGIN,
            "corrected": "Holm over all encoders and tasks of the run, and over all its comparisons with controls",
        },
        "interval_note": _interval_note(answers),
    }


def _task_order(files: RunFiles, answers: RunAnswers) -> list[str]:
    listed = list(files.config.get("tasks") or sorted(answers.evaluation))
    absent = [task for task in listed if task not in answers.evaluation]
    if absent:
        raise AnswersError(
            f"{files.folder / 'answers'} holds no answers for {', '.join(absent)}, which config.json lists "
            f"(it holds: {', '.join(sorted(answers.evaluation))})"
        )
    return [*listed, *(task for task in sorted(answers.evaluation) if task not in listed)]


def _interval_note(answers: RunAnswers) -> str:
    counts = {len(table.seeds) for table in answers.evaluation.values()}
    if counts == {1}:
        return "Intervals resample images and are conditional on the one seed that was trained."
    if 1 in counts:
        return "Intervals cover images and seeds; those of tasks with one seed are conditional on it."
    return "Intervals cover images and seeds, crossed, and are widened for the few seeds that there are."


def write_results(run_folder: Path | str, results: dict[str, Any]) -> Path:
    """Writes results.json so that a reader sees the old file or the new one, never a part."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_atomically(Path(run_folder) / "results.json", text)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Writes beside the target, then renames over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode(errors="replace") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
