"""How wide a trunk must be for a model of other encoders to have as many trainable parameters as the run's.

Handed two configurations and the widths of what their models read; hands on `fusion.mlp_ratio`, or why none would do.
Heads are the same in both and not counted, so what holds here holds of whole models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments.config import RunConfig
from fusion.model import FusionModel

TOLERANCE = 0.05
"""By how much a matched model's trainable parameters may differ from the run's."""
MULTIPLE = 8
"""Of which the inner width of an MLP is, which kernels prefer."""

Widths = Mapping[str, int]


def trainable(config: RunConfig, tasks: tuple[str, ...], widths: Widths) -> int:
    """Parameters of the fusion model of these tasks that training changes."""
    model = FusionModel(config.fusion, widths, seed=0)
    model.freeze(config.train_of(*tasks).freeze)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def matching_ratio(
    run: RunConfig, widths: Widths, own: RunConfig, own_widths: Widths, tasks: tuple[str, ...]
) -> int | float | str:
    """The ratio with which `own` has the run's trainable parameters; its own one where that is near enough.

    Args:
        widths: token width of each of the run's encoders.
        own: the configuration of the other model.
        own_widths: token width of each of its inputs.
    """
    wanted, usual = trainable(run, tasks, widths), own.fusion.mlp_ratio
    found = trainable(own, tasks, own_widths)
    if abs(found - wanted) <= TOLERANCE * wanted:
        return usual
    differ = f"trainable parameters differ by {found / wanted - 1:+.0%} from the run's, as its encoders are"
    differ += f" {', '.join(map(str, widths.values()))} wide"
    slope = trainable(_with_ratio(own, usual + 1), tasks, own_widths) - found
    if not slope:
        return f"{differ}, and a trunk of fusion.text={own.fusion.text!r} cannot be made wider"
    inner = round((usual + (wanted - found) / slope) * own.fusion.width / MULTIPLE) * MULTIPLE
    if inner < MULTIPLE:
        return f"{differ}, and no trunk is so narrow"
    ratio = inner / own.fusion.width
    found = trainable(_with_ratio(own, ratio), tasks, own_widths)
    return ratio if abs(found - wanted) <= TOLERANCE * wanted else differ


def _with_ratio(config: RunConfig, ratio: int | float) -> RunConfig:
    return replace(config, fusion=replace(config.fusion, mlp_ratio=ratio))
