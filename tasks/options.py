"""Refuses options that a task does not have, and values of the wrong kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tasks.errors import TaskError


def check_options(task: type[Any], options: Mapping[str, object], *, name: str) -> None:
    """Raises TaskError unless each option is a field of the dataclass and its value of the field's kind."""
    known = [item.name for item in fields(task)]
    for key in options:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TaskError(f"task {name!r} has no option {key!r}: {hint}it has {', '.join(known) or 'none'}")
    hints = get_type_hints(task)
    for key, value in options.items():
        wanted = _kinds(hints[key])
        if not any(_fits(value, kind) for kind in wanted):
            near = get_close_matches(str(value), [str(kind) for kind in wanted if isinstance(kind, str)], n=1)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise TaskError(f"{name}.{key}={value!r} must be {' or '.join(map(_word, wanted))}{hint}")


def _kinds(hint: Any) -> list[Any]:
    """What an annotation allows: names of a Literal one by one, types, and whatever else it names as it is."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return [one for kind in kinds for one in (get_args(kind) if get_origin(kind) is Literal else (kind,))]


def _fits(value: object, kind: Any) -> bool:
    if isinstance(kind, type) and get_origin(kind) is None:
        number = kind is float and isinstance(value, int)
        return (isinstance(value, kind) or number) and (kind is bool or not isinstance(value, bool))
    return get_origin(kind) is not None or kind is Any or value == kind


def _word(kind: Any) -> str:
    return "None" if kind is NoneType else kind.__name__ if isinstance(kind, type) else repr(kind)
