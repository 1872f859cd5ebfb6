"""Freezing parts of a fusion model by name: modules, single encoders' adapters, ranges of the trunk's layers.

Handed a model and names such as "text", "adapters", "adapters.clip", "trunk[:6]", hands on the modules they
mean. A frozen part needs no gradient, so optimizers that take what needs one leave it out, and autograd records
nothing where all that comes before is frozen too; it stays in evaluation mode while the rest trains. Its work on
texts without any image is done once for each text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.errors import FusionError, choices
from fusion.transformer import Trunk

RANGE = re.compile(r"trunk\[(\d*):(\d*)\]")
MEMO_BYTES = 256 * 2**20


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


class TextMemo:
    """States of texts after the frozen beginning of a trunk, for streams without images.

    It holds at most `MEMO_BYTES`, and forgets everything when a weight it depends on has changed.
    """

    def __init__(self) -> None:
        self._states: dict[str, Tensor] = {}
        self._of: tuple[object, ...] = ()
        self._bytes = 0
        self.full = False

    def depth(self, embedder: nn.Module, trunk: Trunk) -> int:
        """Returns how many layers are frozen from the start on; 0 also where the embeddings are not."""
        if not is_frozen(embedder):
            return 0
        frozen = [is_frozen(block) for block in trunk.blocks]
        return frozen.index(False) if False in frozen else len(frozen)

    def check(self, modules: Iterable[nn.Module]) -> None:
        """Forgets everything if the modules' weights, or the precision, are not those of before."""
        weights = [parameter for module in modules for parameter in module.parameters()]
        device = weights[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
        of = (precision, *((weight.data_ptr(), weight._version) for weight in weights))
        if of != self._of:
            self._states, self._bytes, self._of, self.full = {}, 0, of, False

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Returns the texts, each once, that are not yet known."""
        return [text for text in dict.fromkeys(texts) if text not in self._states]

    def add(self, texts: Sequence[str], states: Float[Tensor, "b t w"], valid: Bool[Tensor, "b t"]) -> None:
        """Keeps the states of texts, as far as there is room."""
        for row, text in enumerate(texts):
            kept = states[row, valid[row]].detach().clone()
            size = kept.numel() * kept.element_size()
            self.full = self._bytes + size > MEMO_BYTES
            if self.full:
                return
            self._states[text] = kept
            self._bytes += size

    def stream(self, texts: Sequence[str]) -> tuple[Float[Tensor, "b t w"], Bool[Tensor, "b t"]] | None:
        """Returns the states of texts, padded, and which are real; None if one is not known."""
        rows = [self._states.get(text) for text in texts]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            return None
        states = nn.utils.rnn.pad_sequence(known, batch_first=True)
        lengths = torch.tensor([len(row) for row in known], device=states.device)
        return states, torch.arange(states.shape[1], device=states.device) < lengths[:, None]
