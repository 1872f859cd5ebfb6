"""A fusion model with the objectives of its tasks, and the settings it was trained with: what a run saves and loads.

`TaskModel.forward` is one training step's loss over groups that share a coalition each, as one ordinary forward
pass, so that accelerate's wrappers see it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion.model import FusionModel
from fusion.types import Coalition, Encoded, FeatureMap, Features
from tasks.base import Example, Objective


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that share one coalition, with their features and their share of the batch."""

    task: str
    examples: Sequence[Example]
    features: Mapping[str, Features]
    coalition: Coalition
    share: float


class TaskModel(nn.Module):
    """One trunk and the heads of one or several tasks."""

    def __init__(self, fusion: FusionModel, objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        self.fusion = fusion
        self.objectives = nn.ModuleDict(dict(objectives))

    def objective(self, task: str) -> Objective:
        """The head and loss of a task."""
        found = self.objectives[task]
        assert isinstance(found, Objective)
        return found

    def forward(self, groups: Sequence[Group], generator: torch.Generator) -> Tensor:
        """The loss of one step: the groups' losses weighted by their shares."""
        losses = [group.share * self._group_loss(group, generator) for group in groups]
        return torch.stack(losses).sum()

    def encode(
        self, objective: Objective, examples: Sequence[Example], features: FeatureMap, coalition: Coalition
    ) -> dict[Any, Encoded]:
        """The streams that an objective asks for."""
        texts = [example.text for example in examples]
        states: dict[Any, Encoded] = {}
        if "joint" in objective.streams:
            states["joint"] = self.fusion.encode(texts, features, coalition)
        if "text" in objective.streams:
            states["text"] = self.fusion.encode(texts, None, ())
        if "image" in objective.streams:
            states["image"] = self.fusion.encode(None, features, coalition)
        return states

    def _group_loss(self, group: Group, generator: torch.Generator) -> Tensor:
        objective = self.objective(group.task)
        states = self.encode(objective, group.examples, group.features, group.coalition)
        loss: Tensor = objective.loss(states, group.examples)
        pairs = objective.pairs(states, group.examples, generator=generator)
        if pairs:
            rows = torch.tensor([pair.image for pair in pairs])
            chosen = {alias: group.features[alias].rows(rows) for alias in group.coalition}
            texts = [group.examples[pair.text].text for pair in pairs]
            joint = self.fusion.encode(texts, chosen, group.coalition)
            labels = torch.tensor([pair.label for pair in pairs], device=loss.device)
            loss = loss + objective.match_loss(joint.pooled, labels)
        return loss


def save_weights(model: TaskModel, path: Path, record: Mapping[str, Any]) -> None:
    """Writes `path`.safetensors, and then the training record `path`.json, which marks the model as complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    unfinished = path.with_suffix(".safetensors.unfinished")
    save_file(state, unfinished)
    os.replace(unfinished, path.with_suffix(".safetensors"))
    write_json(path.with_suffix(".json"), record)


def load_weights(model: TaskModel, path: Path) -> dict[str, Any] | None:
    """Loads what `save_weights` wrote and returns the record; None if it is not there in full."""
    record, weights = path.with_suffix(".json"), path.with_suffix(".safetensors")
    if not record.exists() or not weights.exists():
        return None
    model.load_state_dict(load_file(weights))
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name and renames it: complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
