"""Which precision a device computes fastest in: bfloat16 where it multiplies it, else float32.

On a processor that has no such instructions torch goes through bfloat16 number by number: a backward pass takes up to
fifty times as long as in float32.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from experiments.config import RunConfig

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As Linux calls them, of Intel, AMD and ARM."""


def fast_precision(device: str | None, *, cpuinfo: Path = CPUINFO) -> Literal["no", "bf16"]:
    """`bf16` where the device multiplies bfloat16, else `no`: float32.

    Args:
        device: as in a run's settings; None for what accelerate finds.
        cpuinfo: where Linux lists a processor's instructions; where it is not, there are taken to be none.
    """
    import torch

    from experiments.training.launch import on_cpu

    if not on_cpu(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    known = cpuinfo.read_text().split() if cpuinfo.exists() else ()
    return "no" if INSTRUCTIONS.isdisjoint(known) else "bf16"


def with_precision(config: RunConfig) -> RunConfig:
    """The configuration with the precision that `auto` means on this machine, so that it is on record."""
    if "auto" not in (config.train.precision, config.evaluate.precision):
        return config
    fast = fast_precision(config.device)
    train = config.train if config.train.precision != "auto" else replace(config.train, precision=fast)
    evaluate = config.evaluate if config.evaluate.precision != "auto" else replace(config.evaluate, precision=fast)
    return replace(config, train=train, evaluate=evaluate)


def slow_precision(config: RunConfig) -> str | None:
    """A note where bfloat16 was asked for by name, of a device that has no instructions for it."""
    if "bf16" not in (config.train.precision, config.evaluate.precision) or fast_precision(config.device) == "bf16":
        return None
    return "note: this device does not multiply bfloat16, which takes many times as long; nearest: train.precision=no"
