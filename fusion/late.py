"""`late`: one branch per encoder, each with a trunk of its own, averaged after the head: the ensemble baseline.

A branch is what `concat` is with that encoder alone. The pooled state keeps the branches apart (k), heads treat
them alike, and their outputs are averaged.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fusion.config import FusionConfig
from fusion.joint import fuse, normalised, token_share
from fusion.operators import Attention, FusionOperator, Stream
from fusion.seeding import seeded
from fusion.transformer import Trunk
from fusion.trunk import TextTrunk, initialise_blocks
from fusion.types import AttentionMass, Encoded, EncoderWeight


class Late(FusionOperator):
    """Keeps the encoders apart until after the head.

    A branch counts in the examples in which its encoder has a valid token; where it does not count, its pooled state
    is zeros, which heads leave out of their mean. Where no branch would count, all read the text alone. States of CLS
    and text are the means of the branches that count. Attention mass is their mean too, so each encoder's is at most
    1 / k.
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
        aliases = self.aliases or ("",)
        empty = lead.valid.new_zeros(len(lead.valid))
        counts = torch.stack([visual[a].valid.any(dim=1) if a in visual else empty for a in aliases], dim=1)
        counts = counts | ~counts.any(dim=1, keepdim=True)
        running = [k for k, runs in enumerate(counts.any(dim=0).tolist()) if runs]
        parts = {aliases[k]: self._branch(aliases[k], lead, visual, attention) for k in running}
        shares = counts[:, running] / counts[:, running].sum(dim=1, keepdim=True)
        start = num_text = lead.states.shape[1]
        states = [_mean([part.states[:, :start] for part in parts.values()], shares)]
        valid, spans = [lead.valid], {"cls": slice(0, 1)}
        if start > 1:
            spans["text"] = slice(1, start)
        for alias, stream in visual.items():
            states.append(parts[alias].states[:, num_text:] if alias in parts else stream.states)
            valid.append(stream.valid)
            spans[alias] = slice(start, start + stream.states.shape[1])
            start = spans[alias].stop
        pooled = torch.cat([part.pooled for part in parts.values()], dim=1)
        encoded = Encoded(
            torch.cat(states, dim=1),
            torch.cat(valid, dim=1),
            spans,
            pooled.masked_fill((shares == 0)[..., None], 0),
        )
        return encoded if attention == "none" else _with_attention(encoded, parts, shares, tuple(visual))

    def _branch(self, alias: str, lead: Stream, visual: Mapping[str, Stream], attention: Attention) -> Encoded:
        """The text with one encoder, or alone where the coalition lacks it."""
        trunk = self.branches[f"of_{alias}"]
        assert isinstance(trunk, Trunk)
        own = {alias: visual[alias]} if alias in visual else {}
        return fuse(trunk, lead, visual=own, attention=attention)


def _mean(values: Sequence[Float[Tensor, "b ..."]], shares: Float[Tensor, "b k"]) -> Float[Tensor, "b ..."]:
    """Returns the mean of the branches by their shares in each example."""
    stacked = torch.stack(list(values), dim=1)
    mean: Tensor = (stacked * shares.to(stacked).reshape(*shares.shape, *[1] * (stacked.ndim - 2))).sum(dim=1)
    return mean


def _with_attention(
    encoded: Encoded, parts: Mapping[str, Encoded], shares: Float[Tensor, "b k"], aliases: tuple[str, ...]
) -> Encoded:
    """Adds the mean of the branches' attention, and equal weights."""
    names = tuple(encoded.spans)
    masses = []
    for part in parts.values():
        assert part.attention is not None
        mass = part.attention.mass
        full = mass.new_zeros(*mass.shape[:-1], len(names))
        full[..., [names.index(name) for name in part.attention.names]] = mass
        masses.append(rearrange(full, "l b h e -> b l h e"))
    share = token_share(encoded.valid, encoded.spans)
    report = AttentionMass(rearrange(_mean(masses, shares), "b l h e -> l b h e"), names, share)
    having = [encoded.valid[:, encoded.spans[alias]].any(dim=1) for alias in aliases]
    equal = normalised(torch.stack(having, dim=1).to(share)) if having else share.new_zeros(len(encoded.pooled), 0)
    return Encoded(
        encoded.states,
        encoded.valid,
        encoded.spans,
        encoded.pooled,
        report,
        EncoderWeight(equal, aliases, "equal"),
    )
