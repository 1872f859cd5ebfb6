"""Freezing parts of a fusion model by name: modules, single encoders' adapters, ranges of the trunk's layers.

Handed a model and names such as "text", "adapters", "adapters.clip", "trunk[:6]", hands on the modules they
mean. A frozen part needs no gradient, so optimizers that take what needs one leave it out, and autograd records
nothing where all that comes before is frozen too; it stays in evaluation mode while the rest trains.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from fusion.errors import FusionError, choices
from fusion.transformer import Trunk

RANGE = re.compile(r"trunk\[(\d*):(\d*)\]")


def parts_of(
    names: Sequence[str], *, named: Mapping[str, nn.Module], trunks: Sequence[Trunk]
) -> list[nn.Module]:
    """Returns the modules that the names mean.

    Args:
        names: of modules, or "trunk[FIRST:LAST]" for some of the layers, counted as Python's slices.
        named: the modules that have a name of their own.
        trunks: all trunks of the operator; a range means the same layers of each.

    Raises:
        FusionError: a name means nothing, or a range reaches beyond the layers.
    """
    if isinstance(names, str):
        raise FusionError(f"freeze={names!r} is one string; give a list of names, [{names!r}]")
    found: list[nn.Module] = []
    for name in names:
        ranged = RANGE.fullmatch(name)
        if name == "trunk":
            found += trunks
        elif ranged is not None:
            found += _layers(name, ranged.group(1), ranged.group(2), trunks=trunks)
        elif name in named:
            found.append(named[name])
        else:
            raise FusionError(f"cannot freeze {name!r}; {choices(name, ['trunk', 'trunk[:N]', *named])}")
    return found


def _layers(name: str, first: str, last: str, *, trunks: Sequence[Trunk]) -> list[nn.Module]:
    layers = trunks[0].shape.layers
    start, stop = int(first or 0), int(last or layers)
    if not start < stop <= layers:
        near = f"trunk[{min(start, layers - 1)}:{layers}]"
        raise FusionError(f"cannot freeze {name!r}: the trunk has layers 0 to {layers - 1}; nearest: {near}")
    return [block for trunk in trunks for block in trunk.blocks[start:stop]]


def freeze(modules: Iterable[nn.Module]) -> None:
    """Takes modules out of training: no gradient for their parameters, evaluation mode."""
    for module in modules:
        module.requires_grad_(False).eval()


def is_frozen(module: nn.Module) -> bool:
    """Returns whether nothing in a module needs a gradient and it is in evaluation mode."""
    return not module.training and not any(parameter.requires_grad for parameter in module.parameters())


def frozen_layers(embedder: nn.Module, trunk: Trunk) -> int:
    """Returns how many layers are frozen from the start on; 0 also where the embeddings are not."""
    if not is_frozen(embedder):
        return 0
    frozen = [is_frozen(block) for block in trunk.blocks]
    return frozen.index(False) if False in frozen else len(frozen)
