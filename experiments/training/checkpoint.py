"""Checkpoints: all that a training run needs to go on as if it had never stopped.

A checkpoint is a folder `step-N` with weights as safetensors, the optimizer's state as tensors that torch loads without
pickled objects, `progress.json`, and `manifest.json` with a checksum of each file. It is written under another name and
renamed when it is complete and on the disk; the last two are kept, and a run goes on from the newest intact one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.training.progress import Progress

KEPT = 2
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training run after a step.

    Attributes:
        weights: sets of tensors by name: "model", and "average" and "best" where there are such.
        state: state dicts of the optimizer and, in fp16, of the loss scaling.
    """

    progress: Progress
    weights: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one training run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint whole or not at all, and removes all but the last two."""
        target = self.folder / f"step-{checkpoint.progress.step:08d}"
        unfinished = target.with_name(target.name + UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, tensors in checkpoint.weights.items():
            save_file({key: plain(tensor) for key, tensor in tensors.items()}, unfinished / f"{name}.safetensors")
        torch.save(dict(checkpoint.state), unfinished / "state.pt")
        (unfinished / "progress.json").write_text(json.dumps(checkpoint.progress.to_dict()), encoding="utf-8")
        sums = {file.name: _sync(file) for file in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        _sync(unfinished / MANIFEST)
        _sync_folder(unfinished)
        shutil.rmtree(target, ignore_errors=True)  # of the same step, and torn: an intact one is not written again
        os.rename(unfinished, target)
        _sync_folder(self.folder)
        for old in self._found()[KEPT:]:
            shutil.rmtree(old)

    def newest(self) -> str | None:
        """The name of the newest intact checkpoint; None if there is none."""
        for folder in self._found():
            damage = _damage(folder)
            if damage is None:
                return folder.name
            warnings.warn(f"{folder} is torn ({damage}): training goes on from the one before", stacklevel=2)
        return None

    def load(self, name: str) -> Checkpoint | None:
        """A checkpoint, on the CPU; None as long as it is not there in full."""
        folder = self.folder / name
        return _load(folder) if _damage(folder) is None else None

    def clear(self) -> None:
        """Removes all checkpoints, once the trained model is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        """Newest first."""
        folders = (path for path in self.folder.glob("step-*") if path.suffix != UNFINISHED)
        return sorted(folders, key=lambda path: path.name, reverse=True)


def plain(tensor: Tensor) -> Tensor:
    """A tensor on the CPU that shares memory with no other."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _load(folder: Path) -> Checkpoint:
    weights = {file.stem: load_file(file) for file in folder.glob("*.safetensors")}
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    values = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    return Checkpoint(Progress.from_dict(values), weights, state)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            if _checksum(folder / name) != expected:
                return f"{name} does not have its checksum"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


def _checksum(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(file: Path) -> str:
    """Brings a file to the disk, and returns its checksum."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
    return _checksum(file)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
