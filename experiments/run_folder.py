"""The run folder's memory of what it is a run of, so that no report is made of answers to two different questions.

`config.json` holds the settings, `inputs.json` the fingerprints of encoders, splits and files behind names. A run goes
on in a folder if what is finished there would come out the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from encoders.base import Encoder, digest_of
from encoders.durable import sweep
from experiments.bank import FeatureBank
from experiments.config import RunConfig, read_config
from experiments.data import TaskData
from experiments.errors import ConfigError
from experiments.jobs import CONTROLS
from experiments.model import write_json
from experiments.processes import Processes
from fusion.errors import FusionError
from fusion.trunk import load_text_trunk
from tasks.base import Split
from tasks.task_files import is_task_file

CONFIG, INPUTS = "config.json", "inputs.json"
FREE = (
    *("device", "runs", "cache", "run", "preset", "evaluate.batch_size"),
    *("train.checkpoint_steps", "train.trackers"),
)
"""Settings that change no answer."""
PLACES = ("data", "images", "exclude")
"""Settings that say where things are, for whose content `inputs.json` vouches."""
MORE: dict[str, Sequence[Any]] = {"controls": ("none", "cheap", "full"), "coalitions": ("masked", "both")}
"""Settings of which a later value asks for all that an earlier one does, and more."""
LISTS = ("seeds", "tasks", "evaluate.removals")
"""Settings of which a longer list asks for all that a shorter one does, and more."""
OF_TASKS = ("own_tasks", "task_options", "train.per_task", "train.weights")
"""Tables of what single tasks have of their own."""
KINDS = ("masked", "blind", "retrained", *CONTROLS)
SHOWN = 4


def other_settings(config: RunConfig, *, meanwhile: bool = False) -> str | None:
    """Why a run with these settings cannot go on in its folder: what is there would have come out otherwise.

    Settings of a task, or of all of them, may change as long as none of its, or their, models is begun.

    Args:
        meanwhile: whether the run is under way: then nothing may change, and what another command adds is its own.

    Returns:
        The settings with both values; None if there are none.
    """
    path = config.folder / CONFIG
    if not path.exists():
        return None
    try:
        there = read_config(path)
    except (ConfigError, FusionError) as error:
        return f"{path} is of another version of this program ({error}): name another with --run"
    free = (*FREE, *PLACES) if (config.folder / INPUTS).exists() else FREE
    before, now = _flat(there, free=free), _flat(config, free=free)
    changed = [key for key in dict.fromkeys((*now, *before)) if before.get(key) != now.get(key)]
    grown = [key for key in changed if _adds(key, before.get(key), now.get(key))]
    if meanwhile:
        grown += [key for key in changed if _adds(key, now.get(key), before.get(key))]
    joint, tasks = there.train.joint or config.train.joint, (config if meanwhile else there).tasks
    if joint and "tasks" in grown and begun(config.folder):
        grown.remove("tasks")
    told = []
    for key in changed:
        part = _bound(key, joint=joint, tasks=tasks)
        if key in grown or part is None:
            continue
        read = not part.control or config.controls == "full"
        if begun(config.folder, part.task, control=part.control) or (meanwhile and read):
            told.append(key)
    if not told:
        return None
    listed = "; ".join(f"{key}: {_value(before.get(key))} → {_value(now.get(key))}" for key in told[:SHOWN])
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"{config.folder} holds a run with other settings ({listed}{more}): name another with --run"


def widened(config: RunConfig) -> list[str]:
    """What another command has added to the run meanwhile, which then writes its report."""
    before, now = _flat(config, free=FREE), _flat(read_config(config.folder / CONFIG), free=FREE)
    return [key for key in now if _adds(key, before.get(key), now[key]) and before.get(key) != now[key]]


class Part(NamedTuple):
    """Models that a setting is of: all of them, or a task's or a control's."""

    task: str = ""
    control: str = ""


def _bound(key: str, *, joint: bool, tasks: Sequence[str]) -> Part | None:
    """The models that would have come out otherwise with another value; None if there are none of these."""
    if key.startswith("control_checkpoints."):
        return Part(control="seeds")
    table = next((name for name in OF_TASKS if key.startswith(f"{name}.")), None)
    if table is None or joint:
        return Part()
    task = key.removeprefix(f"{table}.").split(".")[0]
    return Part(task=task) if task in tasks else None


def begun(folder: Path, task: str = "", *, control: str = "") -> bool:
    """Whether any model, or one of a task's own or of a control, has left a checkpoint, weights or answers."""
    kinds = [control] if control else KINDS
    named = task or "*"
    left = [
        *((folder / "train").glob(f"{named}-{kind}-*") for kind in kinds),
        *((folder / "answers").glob(f"{named}.*.{kind}.*.parquet") for kind in kinds),
        *([(folder / "attention").glob(f"{named}.*.parquet")] if not control else []),
    ]
    return any(True for paths in left for _ in paths)


def _flat(config: RunConfig, *, free: Sequence[str]) -> dict[str, Any]:
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
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{one}.") for one in free)}


def _adds(key: str, before: Any, now: Any) -> bool:
    """Whether a run with the new value holds every model and answer of one with the old value, unchanged."""
    if key in LISTS:
        return bool(before == now[: len(before)])
    order = MORE.get(key, ())
    return before in order and now in order and order.index(before) < order.index(now)


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def inputs_of(config: RunConfig, data: Mapping[str, TaskData], encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """Fingerprints of what the run's names stand for: its encoders, its text trunk, and by task its splits and files of
    its own."""
    tasks: dict[str, dict[str, str]] = {}
    for name, item in data.items():
        named = config.task_options.get(name, {}).values()
        files = [value for value in named if isinstance(value, str) and Path(value).is_file()]
        if is_task_file(spec := config.own_tasks.get(name, "")):
            files.append(spec.partition(".py:")[0].removesuffix(".py") + ".py")
        tasks[name] = {f"{part} split": _digest_of_split(split) for part, split in item.splits.items()}
        tasks[name] |= {Path(one).name: hashlib.sha256(Path(one).read_bytes()).hexdigest() for one in files}
    trunk = load_text_trunk(config.fusion)
    digest = hashlib.sha256(f"{trunk.tokenizer.tokenizer.to_str()}{digest_of(trunk.weights)}".encode())
    fingerprints = {alias: encoder.fingerprint for alias, encoder in encoders.items()}
    return {"encoders": fingerprints, "trunk": digest.hexdigest(), "tasks": tasks}


def with_images(inputs: Mapping[str, Any], data: Mapping[str, TaskData], bank: FeatureBank) -> dict[str, Any]:
    """The fingerprints with those of the tasks' images, known once their features are stored."""
    tasks = {}
    for name, item in data.items():
        digest = hashlib.sha256()
        for image in dict.fromkeys(image for split in item.splits.values() for image in split.images()):
            digest.update(f"{image}\t{bank.digest(name, image)}\n".encode())
        tasks[name] = {**inputs["tasks"][name], "images": digest.hexdigest()}
    return {**inputs, "tasks": tasks}


def _digest_of_split(split: Split) -> str:
    digest = hashlib.sha256()
    for one in split.examples:
        parts = [one.id, one.image, one.text, one.target, dict(one.slices), dict(one.extra)]
        digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def other_inputs(folder: Path, inputs: Mapping[str, Any]) -> str | None:
    """Which encoder, trunk or task has changed under its name since models were begun; None if none has."""
    path = folder / INPUTS
    if not path.exists() or not begun(folder):
        return None
    there = json.loads(path.read_text(encoding="utf-8"))
    gone = f"is no longer the one that {folder} was begun with"
    for alias, fingerprint in inputs["encoders"].items():
        if there["encoders"].get(alias, fingerprint) != fingerprint:
            return f"encoder {alias} {gone} (weights, code or preprocessing changed): name another with --run"
    if there["trunk"] != inputs["trunk"]:
        return f"the text trunk {gone} (weights or tokenizer changed): name another with --run"
    for task, now in inputs["tasks"].items():
        before = there["tasks"].get(task, {})
        changed = [key for key in now if before.get(key, now[key]) != now[key]]
        if changed and (begun(folder, task) or begun(folder, "joint")):
            return f"task {task} {gone} ({', '.join(changed)} changed): name another with --run"
    return None


def refuse_together(processes: Processes, ask: Callable[[], str | None]) -> None:
    """Refuses in all processes what the first one finds, which alone looks: others may see a file later.

    Raises:
        ConfigError: why.
    """
    why = processes.agree(ask() if processes.first else None)
    if why is not None:
        raise ConfigError(why)


def begin_folder(config: RunConfig, data: Mapping[str, TaskData], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Writes down what the run is, as far as it is not there; returns the images that each split was left without.

    To be asked first, directly before: `other_settings` and `other_inputs`.
    """
    folder = config.folder
    for place in (folder, *folder.glob("*/")):
        sweep(place)
    for name, content in ((CONFIG, config.to_dict()), (INPUTS, inputs)):
        path = folder / name
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
            write_json(path, content)
    excluded = {n: {part: list(s.excluded) for part, s in item.splits.items()} for n, item in data.items()}
    write_json(folder / "exclusions.json", excluded)
    return excluded
