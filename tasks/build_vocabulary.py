"""`python -m tasks.build_vocabulary DATASET FOLDER FILE`: the usual answer vocabulary from the dataset's own files.

VQAv2: the consensus answers of train2014 and val2014 that at least nine questions have (3,129 of the real files); GQA:
every distinct answer of the balanced train and val splits (1,842). The tasks' option `vocabulary_file` takes FILE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.base import Task
    from tasks.vocabulary import Vocabulary

SPLITS = {"vqa": ("train2014", "val2014"), "gqa": ("train_balanced", "val_balanced")}
MIN_COUNT = {"vqa": 9, "gqa": 1}


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m tasks.build_vocabulary", description=__doc__)
    made.add_argument("dataset", choices=tuple(SPLITS))
    made.add_argument("folder", type=Path, help="the dataset's folder")
    made.add_argument("file", type=Path, help="the JSON list to write")
    made.add_argument("--splits", nargs="+", help="official splits (default: train and val)")
    made.add_argument("--min-count", type=int, help="questions an answer must have (default: vqa 9, gqa 1)")
    return made


def build(
    task: Task, folder: Path, *, splits: Sequence[str] | None = None, min_count: int | None = None
) -> Vocabulary:
    """The vocabulary of these splits, streamed.

    Raises:
        DatasetError: a split's file is absent or not of its format.
        TaskError: no answer is frequent enough.
    """
    from tasks.vocabulary import frequent_answers

    answers = _answers(task, folder, splits or SPLITS[task.name])
    least = MIN_COUNT[task.name] if min_count is None else min_count
    return frequent_answers(answers, min_count=least, setting="--min-count")


def _answers(task: Task, folder: Path, splits: Sequence[str]) -> Iterator[str]:
    """Each question's consensus (vqa, spelled as in a vocabulary) or answer (gqa)."""
    for split in splits:
        for (example,) in task.records(folder, split):
            found = example.extra.get("consensus", example.target)
            if isinstance(found, str):
                yield found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    flags = parser().parse_args(arguments)
    from tasks import load_task
    from tasks.errors import DatasetError, TaskError
    from tasks.vocabulary import write_vocabulary

    try:
        found = build(load_task(flags.dataset), flags.folder, splits=flags.splits, min_count=flags.min_count)
        write_vocabulary(found, flags.file)
    except (DatasetError, TaskError, OSError) as error:
        print(f"tasks.build_vocabulary: {error}", file=sys.stderr)
        return 2
    print(f"{len(found):,} answers: {flags.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
