"""Tasks: official dataset files and model states in; examples, losses, per-example answers and official
metrics out.

A task is a reader, an objective, a metric and its chance level (`tasks.base`). Readers take the files as
their authors publish them, one reader per file here. Nothing knows which encoders or which fusion produced
the states it is handed. `TASKS` names the built-in tasks; other packages add theirs through the entry-point
group `multi_encoder_fusion.tasks`.
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
ENTRY_POINTS = "multi_encoder_fusion.tasks"


def task_table() -> dict[str, str]:
    """Built-in tasks and those of installed packages, as name -> "module:class".

    Raises:
        TaskError: two packages, or a package and the toolkit, use one name.
    """
    from importlib.metadata import entry_points

    from tasks.errors import TaskError

    table = dict(TASKS)
    for entry in entry_points(group=ENTRY_POINTS):
        if table.get(entry.name, entry.value) != entry.value:
            raise TaskError(
                f"task name {entry.name!r} is claimed by {table[entry.name]} and by {entry.value}"
            )
        table[entry.name] = entry.value
    return table


def load_task(name: str, **options: object) -> Task:
    """The task of this name, set up with its own options (such as `min_count` for vqa).

    Raises:
        TaskError: no task has the name, or the task has no such option.
    """
    from difflib import get_close_matches
    from importlib import import_module

    from tasks.errors import TaskError

    table = task_table()
    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TaskError(f"unknown task {name!r}: {hint}tasks are {', '.join(table)}")
    module, _, attribute = table[name].partition(":")
    task_class: type[Task] = getattr(import_module(module), attribute)
    return task_class.create(**options)
