"""The run folder's memory of what it is a run of, so that no report is made of answers to two different questions.

`config.json` holds the settings, `inputs.json` the fingerprints of encoders, splits and files behind names. A run goes
on in a folder if what is finished there would come out the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encoders.base import Encoder
from encoders.durable import sweep
from experiments.config import RunConfig, read_config
from experiments.data import TaskData
from experiments.errors import ConfigError
from experiments.model import write_json
from tasks.base import Split
from tasks.task_files import is_task_file

CONFIG, INPUTS = "config.json", "inputs.json"
FREE = (
    *("device", "runs", "cache", "run", "preset", "data", "images", "exclude", "evaluate.batch_size"),
    *("train.checkpoint_steps", "train.log_steps", "train.trackers"),
)
"""Settings that change no answer: where things are, whose content `inputs.json` vouches for, and when what is said."""
MORE: dict[str, Sequence[Any]] = {"controls": ("none", "cheap", "full"), "coalitions": ("masked", "both")}
"""Settings of which a later value asks for all that an earlier one does, and more."""
LISTS = ("seeds", "tasks", "evaluate.removals")
"""Settings of which a longer list asks for all that a shorter one does, and more."""
OF_TASKS = ("own_tasks", "task_options", "train.per_task", "train.weights")
"""Tables of what single tasks have of their own."""
SHOWN = 4


def refuse_other_settings(config: RunConfig, *, meanwhile: bool = False) -> None:
    """Refuses settings under which models and answers in the folder would have come out otherwise.

    Settings of a task, or of all of them, may change as long as none of its, or their, models is begun.

    Args:
        meanwhile: whether the run is under way: then nothing may change, and what another command adds is its own.

    Raises:
        ConfigError: names them, with both values.
    """
    path = config.folder / CONFIG
    if not path.exists():
        return
    try:
        there = read_config(path)
    except ConfigError as error:
        raise ConfigError(f"{path} is of another version of this program ({error}): name another with --run") from error
    before, now = _flat(there), _flat(config)
    grown = {key for key in before.keys() | now.keys() if _adds(key, before.get(key), now.get(key))}
    if meanwhile:
        grown |= {key for key in before.keys() | now.keys() if _adds(key, now.get(key), before.get(key))}
    changed = [key for key in dict.fromkeys((*now, *before)) if before.get(key) != now.get(key) and key not in grown]
    joint, tasks = there.train.joint or config.train.joint, (there if not meanwhile else config).tasks
    told = [key for key in changed if _binds(key, config.folder, joint=joint, tasks=tasks, meanwhile=meanwhile)]
    if joint and before["tasks"] != now["tasks"] and "tasks" not in told and begun(config.folder):
        told.append("tasks")
    if told:
        listed = "; ".join(f"{key}: {_value(before.get(key))} → {_value(now.get(key))}" for key in told[:SHOWN])
        more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise ConfigError(
            f"{config.folder} holds a run with other settings ({listed}{more}): name another with --run"
        )


def _binds(key: str, folder: Path, *, joint: bool, tasks: Sequence[str], meanwhile: bool) -> bool:
    """Whether a changed setting would have changed something that is there."""
    if key.startswith("control_checkpoints."):
        return meanwhile or begun(folder, control="seeds")
    table = next((name for name in OF_TASKS if key.startswith(f"{name}.")), None)
    if table is None or joint:
        return meanwhile or begun(folder)
    task = key.removeprefix(f"{table}.").split(".")[0]
    return task in tasks and (meanwhile or begun(folder, task))


def begun(folder: Path, task: str = "", *, control: str = "") -> bool:
    """Whether any model, or one of a task's own or of a control, has left a checkpoint, weights or answers."""
    models = [path.name for path in (folder / "train").glob(f"{task}-*" if task else "*") if path.name != "trackers"]
    answers = [path.name for path in (folder / "answers").glob(f"{task or '*'}.*.parquet")]
    return any(f"-{control}" in name for name in models) or any(f".{control}" in name for name in answers)


def _flat(config: RunConfig) -> dict[str, Any]:
    """The settings that count, by dotted name; the order of encoders is one of them."""
    values = json.loads(json.dumps(config.to_dict()))
    flat = {"encoders": [f"{alias}={spec}" for alias, spec in values.pop("encoders").items()]}

    def add(where: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, one in value.items():
                add(f"{where}.{key}" if where else key, one)
        elif value != {}:
            flat[where] = value

    add("", values)
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{one}.") for one in FREE)}


def _adds(key: str, before: Any, now: Any) -> bool:
    """Whether a run with the new value holds every model and answer of one with the old value, unchanged."""
    if key in LISTS:
        return bool(before == now[: len(before)])
    order = MORE.get(key, ())
    return before in order and now in order and order.index(before) < order.index(now)


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def inputs_of(config: RunConfig, data: Mapping[str, TaskData], encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """Fingerprints of what the run's names stand for: its encoders, and by task its splits and files of its own."""
    tasks: dict[str, dict[str, str]] = {}
    for name, item in data.items():
        named = config.task_options.get(name, {}).values()
        files = [value for value in named if isinstance(value, str) and Path(value).is_file()]
        if is_task_file(spec := config.own_tasks.get(name, "")):
            files.append(spec.partition(".py:")[0].removesuffix(".py") + ".py")
        tasks[name] = {f"{part} split": _digest_of_split(split) for part, split in item.splits.items()}
        tasks[name] |= {Path(one).name: hashlib.sha256(Path(one).read_bytes()).hexdigest() for one in files}
    return {"encoders": {alias: encoder.fingerprint for alias, encoder in encoders.items()}, "tasks": tasks}


def _digest_of_split(split: Split) -> str:
    """Of the examples, with the names of their images: the content of these is what features are stored under."""
    digest = hashlib.sha256()
    for example in split.examples:
        digest.update(json.dumps([example.id, example.image, example.text, example.target]).encode())
    return digest.hexdigest()


def refuse_other_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Refuses encoders, annotations and files that have changed under their names since models were begun.

    Raises:
        ConfigError: names the first of them.
    """
    path = folder / INPUTS
    if not path.exists() or not begun(folder):
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    for alias, fingerprint in inputs["encoders"].items():
        if there["encoders"].get(alias, fingerprint) != fingerprint:
            raise ConfigError(
                f"encoder {alias} is no longer the one that {folder} was begun with (weights, code or preprocessing"
                " changed): name another with --run"
            )
    for task, now in inputs["tasks"].items():
        before = there["tasks"].get(task, {})
        changed = [key for key in now if before.get(key, now[key]) != now[key]]
        if changed and (begun(folder, task) or begun(folder, "joint")):
            raise ConfigError(
                f"task {task} is no longer the one that {folder} was begun with ({', '.join(changed)} changed): name"
                " another with --run"
            )


def begin_folder(config: RunConfig, data: Mapping[str, TaskData], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Writes down what the run is; returns the images that each split was left without."""
    folder = config.folder
    for place in (folder, *folder.glob("*/")):
        sweep(place)
    write_json(folder / CONFIG, config.to_dict())
    write_json(folder / INPUTS, inputs)
    excluded = {n: {part: list(s.excluded) for part, s in item.splits.items()} for n, item in data.items()}
    write_json(folder / "exclusions.json", excluded)
    return excluded
