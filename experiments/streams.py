"""Several streams of one encoder, for the controls against a mere ensemble effect: what a model reads in place of
different encoders.

Handed the run's encoders and one of them; hands on `Streams`, or why the encoder cannot give them. As many streams as
the run has encoders, each with an adapter of its own, so that trainable parameters stay those of the run where widths
are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from encoders.base import Encoder
from encoders.errors import EncoderError
from encoders.spec import EncoderSpec
from experiments.bank import Source

TOLERANCE = 0.05
"""By how much a matched model's visual tokens may differ from the run's."""
WIDEST = 4
"""Times the input size that a finer grid may take."""
Load = Callable[[str], Encoder]


@dataclass(frozen=True, slots=True)
class Streams:
    """What a model's inputs read, and the specs of the encoders behind them where they are not the run's own.

    Attributes:
        mlp_ratio: of the model's trunk, where it is not the run's.
    """

    sources: Mapping[str, Source]
    encoders: Mapping[str, str] = field(default_factory=dict)
    mlp_ratio: int | float | None = None


def duplicate(alias: str, *, count: int) -> Streams:
    """The same features, `count` times."""
    return Streams({name: Source(alias) for name in _names(alias, count)})


def seeds(alias: str, spec: str, *, count: int, checkpoints: Sequence[str], load: Load) -> Streams | str:
    """Features of `count` checkpoints that differ in their seed, or of as many views by the one there is.

    Args:
        checkpoints: specs of further checkpoints of the same encoder, trained with other seeds.

    Returns:
        The streams, or why there are none.
    """
    names = _names(alias, count)
    if checkpoints:
        if len(checkpoints) + 1 < count:
            return f"{count - 1} other checkpoints of {alias} are needed, {len(checkpoints)} are named"
        specs = [spec, *checkpoints[: count - 1]]
        return Streams({name: Source(name) for name in names}, dict(zip(names, specs, strict=True)))
    try:
        several = _with_options(alias, spec, views=str(count))
        load(several)
    except EncoderError as error:
        return f"{alias} has no other checkpoint (control_checkpoints.{alias}) and no views: {error}"
    return Streams({name: Source(alias, view=k) for k, name in enumerate(names)}, {alias: several})


def matched(alias: str, spec: str, *, count: int, num_tokens: int, load: Load) -> Streams | str:
    """One finer grid of the encoder, its tokens dealt to `count` streams.

    Args:
        num_tokens: visual tokens of the run, all encoders together.

    Returns:
        The streams, or why no grid of the encoder comes near enough.
    """
    nearest: tuple[float, int] | None = None
    for options in _finer(load(spec), num_tokens):
        try:
            finer = _with_options(alias, spec, **options)
            found = load(finer).num_tokens
        except EncoderError:  # the encoder has no such grid, or takes no such option
            continue
        apart = abs(found - num_tokens) / num_tokens
        if apart <= TOLERANCE:
            parts = {name: Source(alias, part=k, parts=count) for k, name in enumerate(_names(alias, count))}
            return Streams(parts, {alias: finer})
        nearest = min(nearest or (apart, found), (apart, found))
    came = f"; the nearest has {nearest[1]}" if nearest else ""
    return f"no finer grid of {alias} has the run's {num_tokens} tokens within {TOLERANCE:.0%}{came}"


def _finer(encoder: Encoder, num_tokens: int) -> Iterator[dict[str, str]]:
    """Options that give grids of about so many tokens: less pooling first, then larger inputs."""
    rows, columns = encoder.grid
    scale = math.sqrt(max(1, num_tokens - encoder.num_prefix) / (rows * columns * encoder.num_grids))
    sides = {(round(rows * scale) + up, round(columns * scale) + right) for up in (0, -1, 1) for right in (0, -1, 1)}

    def apart(side: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        return abs(encoder.num_prefix + encoder.num_grids * side[0] * side[1] - num_tokens), side

    near = sorted(sides, key=apart)
    for high, wide in near:
        yield {"pool": f"{high}x{wide}"}
    if scale <= WIDEST:
        height, width = encoder.preprocess.crop or encoder.preprocess.size
        for high, wide in near:
            yield {"size": f"{height * high // rows}x{width * wide // columns}", "pool": f"{high}x{wide}"}


def _with_options(alias: str, spec: str, **options: str) -> str:
    parsed = EncoderSpec.parse(f"{alias}={spec}")
    changed = EncoderSpec(alias, parsed.backend, parsed.name, {**parsed.options, **options})
    return str(EncoderSpec.parse(str(changed))).removeprefix(f"{alias}=")


def _names(alias: str, count: int) -> list[str]:
    return [f"{alias}_{number}" for number in range(1, count + 1)]
