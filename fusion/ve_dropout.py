"""Vision-encoder dropout: which encoders a group of training examples sees.

Handed a seed, an epoch, a group and the run's encoders, hands on a coalition. The draw is a pure function of
these (a hash, no generator and no state), so it is the same for any number of processes and after any
interruption; and as each encoder has its own hash, the order of the encoders changes nothing but the order of
the result.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b

from fusion.errors import FusionError
from fusion.types import Coalition


def _uniform(*key: int | str) -> float:
    """Returns a number in [0, 1) that depends on the key alone: 53 bits of its compact JSON's BLAKE2b."""
    text = json.dumps(key, separators=(",", ":"))
    return (int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 11) / 2**53


def coalition_for(
    seed: int, epoch: int, group: int | str, aliases: Sequence[str], rate: float, empty: float = 0.1
) -> Coalition:
    """Draws the encoders that one group sees in one epoch.

    With probability `empty` none is present. Otherwise each is dropped with probability `rate` on its own; if
    all would go, one chosen uniformly stays. So for n encoders and a set S of m >= 1 of them
    P(S) = (1 - empty) (rate^(n-m) (1 - rate)^m + [m = 1] rate^n / n).

    Args:
        seed: of the run.
        epoch: any counter; the draw changes with it.
        group: id of the example or of the group that shares the coalition.
        aliases: the run's encoders, in the run's order.
        rate: chance of each encoder to be dropped, 0 to 1.
        empty: chance of the empty coalition, 0 to 1.

    Returns:
        The aliases present, in the run's order.

    Raises:
        FusionError: `rate` or `empty` is not a probability.
    """
    for name, value in (("rate", rate), ("empty", empty)):
        if not 0 <= value <= 1:
            raise FusionError(f"ve_dropout.{name}={value!r} is not a probability; give a number from 0 to 1")
    if not aliases or _uniform(seed, epoch, group, "empty") < empty:
        return ()
    draws = {alias: _uniform(seed, epoch, group, "keep", alias) for alias in aliases}
    kept = tuple(alias for alias in aliases if draws[alias] >= rate)
    # Given that all fell below the rate, the draws are alike distributed: the largest is a uniform choice.
    return kept or (max(aliases, key=lambda alias: draws[alias]),)


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
