"""The small files of a run folder beside its answers.

Handed the folder; hands on configuration, environment, training records, baselines, cost and similarity as
plain dictionaries. A file that must be there is asked for by name; one that may be absent gives `not_run`
with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.errors import RunFolderError
from analysis.leaves import Leaf, not_run

CURVE_POINTS = 120
TableMode = Literal["masked", "retrained"]


@dataclass(frozen=True)
class RunFiles:
    """What a run wrote beside its answers."""

    folder: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    training: Sequence[Mapping[str, Any]]

    @property
    def encoders(self) -> tuple[str, ...]:
        """Aliases in the run's order."""
        return tuple(self.config["encoders"])

    @property
    def table_mode(self) -> TableMode:
        """What answered for the coalitions: one masked model, unless each has a model of its own and no other."""
        return "retrained" if self.config.get("coalitions") == "retrained" else "masked"

    def baseline(self, task: str) -> Mapping[str, Any]:
        """Chance, majority and prior of a task.

        Raises:
            RunFolderError: `baselines.json` has no entry for the task.
        """
        if task not in self.baselines:
            known = ", ".join(self.baselines) or "none"
            raise RunFolderError(
                f"{self.folder / 'baselines.json'} has no entry for task {task!r} (it has: {known})"
            )
        return self.baselines[task]


def read_run_files(folder: Path) -> RunFiles:
    """Reads everything small.

    Raises:
        RunFolderError: `config.json` or `baselines.json` is missing or not what it should be.
    """
    config = read_json(folder / "config.json", needed=("encoders",))
    if not isinstance(config["encoders"], Mapping) or not config["encoders"]:
        raise RunFolderError(f"{folder / 'config.json'}: encoders must map each alias to its spec")
    environment = read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    records = [read_json(path) for path in sorted((folder / "train").glob("*.json"))]
    records = [record | {"mode": record.get("kind", record.get("mode"))} for record in records]
    return RunFiles(
        folder=folder,
        config=config,
        environment=environment,
        baselines=read_json(folder / "baselines.json"),
        training=[record for record in records if "model" in record],
    )


def read_json(path: Path, *, needed: Sequence[str] = ()) -> dict[str, Any]:
    """One JSON object from disk.

    Raises:
        RunFolderError: no such file, not JSON, no object, or a needed key is absent.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is missing: is {path.parent} the folder of a finished run? Else its command goes on with it"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} must hold a JSON object, found {type(content).__name__}")
    missing = [key for key in needed if key not in content]
    if missing:
        raise RunFolderError(f"{path} lacks {', '.join(missing)}")
    return content


def training_of(files: RunFiles, task: str) -> dict[str, Any]:
    """Steps and convergence of the models that answered a task, its own or else the joint one, and of the blind one."""

    def trained(mode: str) -> list[Mapping[str, Any]]:
        found = [record for record in files.training if record.get("mode") == mode]
        return [r for r in found if r["model"] == task] or [r for r in found if r["model"] == "joint"]

    models, blind = trained(files.table_mode), trained("blind")
    if not models:
        reason = not_run(f"the run folder holds no training record of the {files.table_mode} model")
        return {"steps": reason, "converged": reason}
    return {
        "steps": min(int(record["steps"]) for record in models),
        "converged": all(bool(record["converged"]) for record in models),
        **({"blind_steps": min(int(record["steps"]) for record in blind)} if blind else {}),
    }


def impossible_controls(files: RunFiles) -> dict[str, str]:
    """Controls that a run could not make, such as `matched of vit`, and why; nothing where it did not say."""
    path = files.folder / "controls.json"
    return {name: str(why) for name, why in read_json(path).items()} if path.exists() else {}


def excluded_of(files: RunFiles, task: str) -> dict[str, Any]:
    """How many images each split of a task was left without; nothing where the run did not record it."""
    path = files.folder / "exclusions.json"
    if not path.exists():
        return {}
    parts = read_json(path).get(task, {})
    return {"excluded_images": {part: len(images) for part, images in parts.items()}}


def image_folders(folder: Path) -> dict[str, Path]:
    """Where the images of each task lay when the run was made, as `images.json` says; nothing where it does not."""
    path = folder / "images.json"
    found = read_json(path) if path.exists() else {}
    return {task: Path(place) for task, place in found.items() if isinstance(place, str)}


def training_summary(files: RunFiles) -> list[dict[str, Any]]:
    """Every training record with its curves thinned to what a figure can show."""
    keys = ("model", "mode", "seed", "steps", "examples_seen", "converged")
    return [
        {
            **{key: record.get(key) for key in keys},
            "losses": _thinned(record.get("losses", [])),
            "select": _thinned(record.get("select", [])),
        }
        for record in files.training
    ]


def _thinned(curve: Sequence[Any]) -> list[Any]:
    if len(curve) <= CURVE_POINTS:
        return list(curve)
    last = len(curve) - 1
    return [curve[round(index * last / (CURVE_POINTS - 1))] for index in range(CURVE_POINTS)]


def similarity_of(files: RunFiles) -> dict[str, Any]:
    """Contents of `similarity.json` (see `analysis.similarity`), or why there are none."""
    path = files.folder / "similarity.json"
    if not path.exists():
        return {"cka": not_run("the run folder holds no similarity.json")}
    content = read_json(path)
    content.setdefault("cka", not_run("similarity.json holds no CKA"))
    return content


def cost_of(files: RunFiles) -> dict[str, Any]:
    """Parameters, GFLOPs, tokens and latency per encoder; what was not measured says so."""
    path = files.folder / "cost.json"
    content = read_json(path) if path.exists() else {}
    why = "not measured in this run"
    keys = ("params", "gflops", "tokens", "ms_per_image")
    return {
        alias: {
            **content.get(alias, {}),
            **{key: _number(content.get(alias, {}).get(key), why) for key in keys},
        }
        for alias in files.encoders
    }


def _number(value: object, why: str) -> float | int | Leaf:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else not_run(why)
