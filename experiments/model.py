"""A fusion model with the objectives of its tasks, and the settings it was trained with: what a run saves and loads.

`TaskModel.forward` is one training step's loss over groups that share a coalition each, as one ordinary forward
pass, so that accelerate's wrappers see it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from encoders.durable import write_whole
from fusion.model import FusionModel
from fusion.types import Coalition, Encoded, FeatureMap, Features
from fusion.ve_dropout import VEDropout
from tasks.base import Example, Objective, Whole


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that share one coalition: those that this process has of them, with their features.

    Attributes:
        share: of the step's loss that the mean loss of these examples makes.
        whole: all examples of the group, and which of them are here.
        whole_share: of the step's loss that the whole group makes.
    """

    task: str
    examples: Sequence[Example]
    features: Mapping[str, Features]
    coalition: Coalition
    share: float
    whole: Whole
    whole_share: float

    def to(self, device: torch.device) -> Group:
        """The same group with its features on a device."""
        return replace(self, features={alias: found.to(device) for alias, found in self.features.items()})

    def pinned(self) -> Group:
        """The same group with its features where a GPU copies them from by itself."""
        return replace(self, features={alias: found.pinned() for alias, found in self.features.items()})


class TaskModel(nn.Module):
    """One trunk and the heads of one or several tasks.

    Args:
        dropout: what fills the places of absent encoders, where training filled them; None where it dropped them.
    """

    def __init__(
        self, fusion: FusionModel, objectives: Mapping[str, Objective], *, dropout: VEDropout | None = None
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.objectives = nn.ModuleDict(dict(objectives))
        self.dropout = dropout

    def objective(self, task: str) -> Objective:
        """The head and loss of a task."""
        found = self.objectives[task]
        assert isinstance(found, Objective)
        return found

    def forward(self, groups: Sequence[Group], generator: torch.Generator) -> Tensor:
        """What this process's examples add to the loss of one step."""
        losses = [self._group_loss(group, generator) for group in groups]
        return torch.stack(losses).sum()

    def fuse(
        self,
        texts: Sequence[str] | None,
        features: FeatureMap,
        coalition: Coalition,
    ) -> Encoded:
        """A stream with images: the coalition's features, and what stands in for absent encoders."""
        fills: dict[str, Features] = {}
        if self.dropout is not None:
            size = len(texts) if texts is not None else len(next(iter(features.values())).tokens)
            fills = self.dropout.fills(coalition, batch_size=size)
        return self.fusion.encode(texts, features, coalition, fills=fills)

    def encode(
        self,
        objective: Objective,
        examples: Sequence[Example],
        features: FeatureMap,
        coalition: Coalition,
    ) -> dict[Any, Encoded]:
        """The streams that an objective asks for."""
        texts = [example.text for example in examples]
        states: dict[Any, Encoded] = {}
        if "joint" in objective.streams:
            states["joint"] = self.fuse(texts, features, coalition)
        if "text" in objective.streams:
            states["text"] = self.fusion.encode(texts, None, ())
        if "image" in objective.streams:
            states["image"] = self.fuse(None, features, coalition)
        return states

    def _group_loss(self, group: Group, generator: torch.Generator) -> Tensor:
        objective = self.objective(group.task)
        states = self.encode(objective, group.examples, group.features, group.coalition)
        if objective.scope == "example":
            return group.share * objective.loss(states, group.examples)
        loss: Tensor = group.share * objective.loss_of_rows(states, group.whole)
        here = {row: place for place, row in enumerate(group.whole.rows)}
        # A pair is encoded where its image is, so that no features travel; texts are known everywhere.
        pairs = [pair for pair in objective.pairs(states, group.whole, generator=generator) if pair.image in here]
        if pairs:
            rows = torch.tensor([here[pair.image] for pair in pairs])
            chosen = {alias: group.features[alias].rows(rows) for alias in group.coalition}
            joint = self.fuse([group.whole.examples[pair.text].text for pair in pairs], chosen, group.coalition)
            loss = loss + group.whole_share * objective.match_loss(self.fusion.match_logits(joint), pairs)
        return loss


def save_weights(model: TaskModel, path: Path, record: Mapping[str, Any]) -> None:
    """Writes `path`.safetensors, and then the training record `path`.json, which marks the model as complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    data = save(state)  # `save_file` makes a file that others cannot read
    write_whole(path.with_suffix(".safetensors"), lambda handle: handle.write(data))
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
    """Writes JSON, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda handle: handle.write(text.encode()))
