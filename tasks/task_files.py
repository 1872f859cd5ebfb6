"""The user's own task from a Python file that is named on the command line, such as `snow.py` or `snow.py:Snow`."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tasks.errors import TaskError

if TYPE_CHECKING:
    from tasks.base import Task


def is_task_file(spec: str) -> bool:
    """Whether the specification names a file and not a task."""
    return spec.partition(".py:")[0] != spec or spec.endswith(".py")


def task_class_of_file(spec: str) -> type[Task]:
    """The class of `FILE.py:Class`, or the only task that the file defines.

    Raises:
        TaskError: there is no such file, it cannot be run, or it does not say which class is meant.
    """
    from tasks.base import Task

    path_text, colon, wanted = spec.partition(".py:")
    path = Path(f"{path_text}.py" if colon else spec)
    module = _run(path)
    found = {
        name: item
        for name, item in vars(module).items()
        if isinstance(item, type) and issubclass(item, Task) and item.__module__ == module.__name__
    }
    listed = ", ".join(found) or "none"
    if wanted and wanted not in found:
        near = get_close_matches(wanted, found, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TaskError(f"{path} defines no task {wanted!r}: {hint}its tasks are {listed}")
    if not wanted and len(found) != 1:
        raise TaskError(f"{path} must define one task to be used without a class name; its tasks are {listed}")
    return found[wanted] if wanted else next(iter(found.values()))


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"there is no task file {path}")
    name = f"own_task_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"task file {path} cannot be run: {type(error).__name__}: {error}") from error
    return module
