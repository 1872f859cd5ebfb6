"""Tasks: official dataset files and model states in; examples, losses, per-example answers and official
metrics out.

A task is a reader, an objective, a metric and its chance level (`tasks.base`). Readers take the files as
their authors publish them, one reader per file here. Nothing knows which encoders or which fusion produced
the states it is handed. `TASKS` names the built-in tasks, `GENERIC` those that read a user's own JSONL or CSV; other
packages add theirs through the entry-point group `multi_encoder_fusion.tasks`, and a file by being named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.base import Task

TASKS: dict[str, str] = {
    "flickr30k": "tasks.karpathy:Flickr30k",
    "coco": "tasks.karpathy:Coco",
    "vqa": "tasks.vqa:Vqa",
    "gqa": "tasks.gqa:Gqa",
    "snli_ve": "tasks.snli_ve:SnliVe",
    "hateful_memes": "tasks.hateful_memes:HatefulMemes",
}
GENERIC: dict[str, str] = {
    "classification": "tasks.own:Classification",
    "questions": "tasks.own:Questions",
    "pairs": "tasks.own:Pairs",
}
ENTRY_POINTS = "multi_encoder_fusion.tasks"


def task_table() -> dict[str, str]:
    """Built-in and generic tasks and those of installed packages, as name -> "module:class".

    Raises:
        TaskError: two packages, or a package and the toolkit, use one name.
    """
    from importlib.metadata import entry_points

    from tasks.errors import TaskError

    table = TASKS | GENERIC
    for entry in entry_points(group=ENTRY_POINTS):
        if table.get(entry.name, entry.value) != entry.value:
            raise TaskError(
                f"task name {entry.name!r} is claimed by {table[entry.name]} and by {entry.value}"
            )
        table[entry.name] = entry.value
    return table


def is_own_task(name: str) -> bool:
    """Whether `load_task` would look for more than a built-in task: an alias, a file, a generic or installed task."""
    from tasks.task_files import is_task_file

    return "=" in name or is_task_file(name) or (name not in TASKS and name in task_table())


def load_task(name: str, **options: object) -> Task:
    """The task of this name, set up with its own options (such as `min_count` for vqa).

    Args:
        name: a task's name; a file with a task, `FILE.py` or `FILE.py:Class`; or `ALIAS=` before either, which gives
            the task that name, as in "pets=classification".

    Raises:
        TaskError: no task has the name, the file or alias is not usable, or the task has no such option.
    """
    from difflib import get_close_matches
    from importlib import import_module

    from tasks.errors import TaskError
    from tasks.task_files import is_task_file, task_class_of_file

    alias, equals, spec = name.partition("=") if "=" in name else ("", "", name)
    if equals and not _is_alias(alias):
        raise TaskError(f"alias {alias!r} in {name!r} must be of a-z, 0-9, _ and -")
    if is_task_file(spec):
        task = task_class_of_file(spec).create(**options)
    else:
        table = task_table()
        if spec not in table:
            near = get_close_matches(spec, table, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TaskError(f"unknown task {spec!r}: {hint}tasks are {', '.join(table)}")
        module, _, attribute = table[spec].partition(":")
        try:
            task_class: type[Task] = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise TaskError(f"task {spec!r} of an installed package cannot be loaded: {error}") from error
        task = task_class.create(**options)
    return task.named(alias) if alias else task


def _is_alias(alias: str) -> bool:
    import re

    return re.fullmatch("[a-z0-9_-]+", alias) is not None
