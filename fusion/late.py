"""`late`: one branch per encoder, each with a trunk of its own, averaged after the head: the ensemble baseline.

A branch is what `concat` is with that encoder alone. The pooled state keeps the branches apart (k), heads treat
them alike, and their outputs are averaged.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from fusion.config import FusionConfig
from fusion.joint import fuse, token_share
from fusion.operators import Attention, FusionOperator, Stream
from fusion.seeding import seeded
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import AttentionMass, Encoded, EncoderWeight


class Late(FusionOperator):
    """Keeps the encoders apart until after the head.

    An encoder without any valid token in an example leaves its branch there with the text alone; one without
    any in the whole batch is absent. States of CLS and text are the branches' means. Attention mass is the
    branches' mean too, so each encoder's is at most 1 / k.
    """

    absent: ClassVar[str] = "its branch is not run; without any encoder every branch reads the text alone"

    def __init__(self, trunk: TextTrunk, *, aliases: tuple[str, ...], config: FusionConfig, seed: int) -> None:
        super().__init__(trunk, aliases=aliases, config=config, seed=seed)
        self.aliases = aliases
        self.branches = nn.ModuleDict()
        for alias in aliases or ("",):
            with seeded(seed, "late", alias):
                branch = Trunk(trunk.shape, dropout=config.dropout)
            initialise_blocks(branch, trunk)
            self.branches[f"of_{alias}"] = branch

    def text_trunk(self) -> Trunk | None:
        """Returns None: each branch passes text through a trunk of its own."""
        return None

    def num_branches(self, num_present: int) -> int:
        """Returns one for each encoder present, and all of them when none is."""
        return num_present or len(self.branches)

    def forward(self, lead: Stream, *, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """Returns the branches side by side; see `FusionOperator.forward`."""
        seen = {alias: stream for alias, stream in visual.items() if bool(stream.valid.any())}
        parts: dict[str, Encoded] = {}
        for alias in seen or self.aliases or ("",):
            own = {alias: seen[alias]} if alias in seen else {}
            trunk = self.branches[f"of_{alias}"]
            assert isinstance(trunk, Trunk)
            parts[alias] = fuse(trunk, lead, visual=own, attention=attention)
        start = num_text = lead.states.shape[1]
        states = [torch.stack([part.states[:, :start] for part in parts.values()]).mean(dim=0)]
        valid, spans = [lead.valid], {"cls": slice(0, 1)}
        if start > 1:
            spans["text"] = slice(1, start)
        for alias, stream in visual.items():
            states.append(parts[alias].states[:, num_text:] if alias in seen else stream.states)
            valid.append(stream.valid)
            spans[alias] = slice(start, start + stream.states.shape[1])
            start = spans[alias].stop
        encoded = Encoded(
            torch.cat(states, dim=1),
            torch.cat(valid, dim=1),
            spans,
            torch.cat([part.pooled for part in parts.values()], dim=1),
        )
        return encoded if attention == "none" else _with_attention(encoded, parts, tuple(visual))


def _with_attention(encoded: Encoded, parts: Mapping[str, Encoded], aliases: tuple[str, ...]) -> Encoded:
    """Adds the mean of the branches' attention, and equal weights."""
    names = tuple(encoded.spans)
    masses = []
    for part in parts.values():
        assert part.attention is not None
        mass = part.attention.mass
        full = mass.new_zeros(*mass.shape[:-1], len(names))
        full[..., [names.index(name) for name in part.attention.names]] = mass
        masses.append(full)
    share = token_share(encoded.valid, encoded.spans)
    report = AttentionMass(torch.stack(masses).mean(dim=0), names, share)
    equal = share.new_full((len(encoded.pooled), len(aliases)), 1 / max(1, len(aliases)))
    return Encoded(
        encoded.states,
        encoded.valid,
        encoded.spans,
        encoded.pooled,
        report,
        EncoderWeight(equal, aliases, "equal"),
    )
