"""Vision-encoder dropout: which encoders a group of training examples sees, and what stands in for the others.

Handed a seed, an epoch, a group and the run's encoders, hands on a coalition. The draw is a pure function of
these (a hash, no generator and no state), so it is the same for any number of processes and after any
interruption; and as each encoder has its own hash, the order of the encoders changes nothing but the order of
the result. `VEDropout` is the one module for every operator: it holds the rates, their warm-up and the fill.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, get_args

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from fusion.errors import FusionError, choices
from fusion.types import Coalition, FeatureMap, Features, check_coalition

Fill = Literal["drop", "zero", "mean"]


def _uniform(*key: int | str) -> float:
    """Returns a number in [0, 1) that depends on the key alone: 53 bits of its compact JSON's BLAKE2b."""
    text = json.dumps(key, separators=(",", ":"))
    return (int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 11) / 2**53


def coalition_for(
    seed: int,
    epoch: int,
    group: int | str,
    aliases: Sequence[str],
    rate: float | Mapping[str, float],
    empty: float = 0.1,
) -> Coalition:
    """Draws the encoders that one group sees in one epoch.

    With probability `empty` none is present. Otherwise each is dropped with its probability `rate` on its own;
    if all would go, one chosen uniformly stays. So for n encoders of one rate and a set S of m >= 1 of them
    P(S) = (1 - empty) (rate^(n-m) (1 - rate)^m + [m = 1] rate^n / n).

    Args:
        seed: of the run.
        epoch: any counter; the draw changes with it.
        group: id of the example or of the group that shares the coalition.
        aliases: the run's encoders, in the run's order.
        rate: chance of each encoder to be dropped, 0 to 1; one for all, or one for each alias.
        empty: chance of the empty coalition, 0 to 1.

    Returns:
        The aliases present, in the run's order.

    Raises:
        FusionError: `rate` or `empty` is not a probability, or an encoder has no rate.
    """
    rates = rates_of(rate, aliases)
    _check_probability("empty", empty)
    if not aliases or _uniform(seed, epoch, group, "empty") < empty:
        return ()
    draws = {alias: _uniform(seed, epoch, group, "keep", alias) for alias in aliases}
    kept = tuple(alias for alias in aliases if draws[alias] >= rates[alias])
    # Given that each fell below its rate, their ratios are alike distributed: the largest is a uniform choice.
    return kept or (max(aliases, key=lambda alias: draws[alias] / rates[alias]),)


def rates_of(rate: float | Mapping[str, float], aliases: Sequence[str]) -> dict[str, float]:
    """Returns the rate of each encoder.

    Raises:
        FusionError: a rate is not a probability, of an unknown encoder, or missing.
    """
    if not isinstance(rate, Mapping):
        _check_probability("rate", rate)
        return dict.fromkeys(aliases, rate)
    for alias, value in rate.items():
        if alias not in aliases:
            raise FusionError(f"ve_dropout.rate names {alias!r}; {choices(alias, aliases)}")
        _check_probability(f"rate[{alias}]", value)
    for alias in aliases:
        if alias not in rate:
            raise FusionError(f"ve_dropout.rate has none for encoder {alias!r}; given: {', '.join(rate) or 'none'}")
    return {alias: rate[alias] for alias in aliases}


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise FusionError(f"ve_dropout.{name}={value!r} is not a probability; give a number from 0 to 1")


def group_batch(batch_size: int, *, groups: int) -> tuple[slice, ...]:
    """Splits a batch into consecutive groups, each of which shares one coalition so that tokens really leave.

    Args:
        batch_size: B.
        groups: wanted; a batch smaller than that has one example a group.

    Returns:
        Slices that cover the batch in order, whose sizes differ by at most one, larger ones first.

    Raises:
        FusionError: either number is below 1.
    """
    for name, value in (("batch_size", batch_size), ("groups", groups)):
        if value < 1:
            raise FusionError(f"{name}={value} must be at least 1")
    count = min(groups, batch_size)
    size, larger = divmod(batch_size, count)
    starts = [i * size + min(i, larger) for i in range(count + 1)]
    return tuple(slice(start, stop) for start, stop in zip(starts, starts[1:], strict=False))


class VEDropout(nn.Module):
    """Vision-encoder dropout for any operator.

    Args:
        widths: each encoder's token width by alias, in the run's order.
        rate: chance of each encoder to be dropped; one for all, or one for each alias.
        empty: chance of the empty coalition.
        fill: "drop" takes an absent encoder's tokens out of the stream. "zero" and "mean" put a constant in
            their place: zeros, or each token's mean over the features observed, with the mean boxes of these.
        warmup: share of training over which `rate` and `empty` rise linearly from 0; 0 for constant ones.

    Raises:
        FusionError: a value that cannot be honoured.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        rate: float | Mapping[str, float] = 0.5,
        empty: float = 0.1,
        fill: Fill = "drop",
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        if fill not in get_args(Fill):
            raise FusionError(f"unknown ve_dropout.fill {fill!r}; {choices(fill, get_args(Fill))}")
        _check_probability("empty", empty)
        _check_probability("warmup", warmup)
        self.aliases = tuple(widths)
        self.rates = rates_of(rate, self.aliases)
        self.empty, self.fill, self.warmup = empty, fill, warmup
        for alias, width in widths.items():  # sums over the tokens observed at each place, and how many
            self.register_buffer(f"tokens_{alias}", torch.zeros(0, width, dtype=torch.float64))
            self.register_buffer(f"boxes_{alias}", torch.zeros(0, 4, dtype=torch.float64))
            self.register_buffer(f"counts_{alias}", torch.zeros(0, dtype=torch.float64))

    def coalition(
        self,
        seed: int,
        epoch: int,
        group: int | str,
        *,
        progress: float = 1.0,
        empty: Literal["draw", "never"] = "draw",
    ) -> Coalition:
        """Draws the encoders that one group sees; see `coalition_for`.

        As rates rise, a draw only ever loses encoders: each keeps its own number.

        Args:
            seed: of the run.
            epoch: any counter; the draw changes with it.
            group: id of the example or of the group that shares the coalition.
            progress: share of training done, 0 to 1.
            empty: "never" for what cannot be trained without encoders.
        """
        _check_probability("progress", progress)
        risen = 1.0 if self.warmup == 0 else min(1.0, progress / self.warmup)
        rates = {alias: risen * rate for alias, rate in self.rates.items()}
        chance = risen * self.empty if empty == "draw" else 0.0
        return coalition_for(seed, epoch, group, self.aliases, rates, chance)

    @torch.no_grad()
    def observe(self, features: FeatureMap) -> None:
        """Adds features to what the fills are made of: the training set, or a part of it, once before training."""
        for alias, given in features.items():
            if alias not in self.aliases:
                raise FusionError(f"features of unknown encoder {alias!r}; {choices(alias, self.aliases)}")
            kept = given.valid[..., None]
            self._add(f"tokens_{alias}", given.tokens.double().masked_fill(~kept, 0).sum(dim=0))
            self._add(f"boxes_{alias}", given.boxes.double().masked_fill(~kept, 0).sum(dim=0))
            self._add(f"counts_{alias}", given.valid.double().sum(dim=0))

    def _add(self, name: str, values: Float[Tensor, "n ..."]) -> None:
        """Adds to a buffer, which grows to the most tokens met."""
        old: Tensor = getattr(self, name)
        total = values.new_zeros(max(len(old), len(values)), *values.shape[1:])
        total[: len(old)] += old.to(values.device)
        total[: len(values)] += values
        setattr(self, name, total)

    def fills(self, coalition: Sequence[str], *, batch_size: int) -> dict[str, Features]:
        """Returns what `FusionModel.encode` takes as `fills`: constants for the absent encoders, none for "drop".

        Raises:
            FusionError: an absent encoder's features were never observed.
        """
        present = check_coalition(coalition, self.aliases)
        if self.fill == "drop":
            return {}
        return {alias: self._constant(alias, batch_size) for alias in self.aliases if alias not in present}

    def _constant(self, alias: str, batch_size: int) -> Features:
        counts: Tensor = getattr(self, f"counts_{alias}")
        if not counts.any():
            raise FusionError(
                f"ve_dropout.fill={self.fill!r} has observed no features of encoder {alias!r}; "
                "call observe() with training features first"
            )
        share = counts.clamp_min(1)[:, None]
        tokens: Tensor = getattr(self, f"tokens_{alias}") / share
        if self.fill == "zero":
            tokens = torch.zeros_like(tokens)
        boxes: Tensor = getattr(self, f"boxes_{alias}") / share
        return Features(
            repeat(tokens.float(), "n d -> b n d", b=batch_size),
            repeat(boxes.float(), "n c -> b n c", b=batch_size),
            repeat(counts > 0, "n -> b n", b=batch_size),
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Makes the buffers as long as those saved."""
        for name, buffer in list(self._buffers.items()):
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape[1:] == buffer.shape[1:]:
                setattr(self, name, buffer.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
