"""The share of a run that one of several independent processes takes: whole models, each trained by one of them.

`--shard 3/16` names it for machines that share a folder; processes of one `accelerate launch` take theirs by rank, each
on a device of its own, unless `--ddp` trains every model with all of them together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from encoders.plan import Shard
from experiments.errors import ConfigError

Item = TypeVar("Item")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each process; a process that works alone must not find it. With how many it shares the machine
(LOCAL_WORLD_SIZE) it still has to know: they share memory and processors."""
OF_A_GROUP = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What says how many processes there are, where there is more than one: torch's launcher, or some MPI."""
LEFT_ALONE = (
    "note: accelerate starts several processes on CPUs through MPI alone, so this one has the run to itself;"
    " without MPI accelerate launch takes --multi_gpu in place of --cpu, on CPUs too (docs/many_machines.md)"
)
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """Every `count`-th item from `index` on.

    Attributes:
        patient: whether the others certainly run now, so that one can wait for what they make.
    """

    index: int = 0
    count: int = 1
    patient: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is everything."""
        return self.count == 1

    @property
    def shard(self) -> Shard:
        """The same share of an extraction, where the others certainly extract theirs."""
        return Shard(self.index, self.count) if self.patient else Shard()

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Its items."""
        return list(items[self.index :: self.count])

    def wait(self, ready: Callable[[], bool], *, seconds: float = POLL_SECONDS) -> bool:
        """Whether it is ready; a patient share returns when it is."""
        while not ready():
            if not self.patient:
                return False
            time.sleep(seconds)
        return True


def own_share(shard: str | None, *, ddp: bool, environment: MutableMapping[str, str]) -> tuple[Share, str | None]:
    """This process's share of a run, and its local rank where a launcher started several processes.

    What the launcher left in the environment is taken out, so that this process works alone.

    Args:
        shard: as "3/16"; None for all.
        ddp: all processes of a launch train each model together.

    Raises:
        StoreError: no such shard.
        ConfigError: the environment says how many processes there are, but not which one this is.
    """
    asked = Shard.parse(shard) if shard is not None else Shard()
    size = int(environment.get("WORLD_SIZE", "1"))
    if size > 1 and "RANK" not in environment:
        raise ConfigError(f"WORLD_SIZE={size} is set, but RANK is not: unset it, or start them by accelerate launch")
    if ddp and size > 1:
        return Share(asked.index, asked.count), None
    rank, local = int(environment.get("RANK", "0")), environment.get("LOCAL_RANK", "0")
    if "WORLD_SIZE" in environment:  # not an MPI, whose processes still have to meet
        for name in LAUNCHED:
            environment.pop(name, None)
    if size == 1:
        return Share(asked.index, asked.count), None
    own = asked.within(rank, size)
    return Share(own.index, own.count, patient=asked.count == 1), local


def left_alone(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes and started this one only.

    It then names the address where they would meet, but not how many there are.
    """
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in environment
    return asked and not any(name in environment for name in OF_A_GROUP)


def refuse_one_gpu(device: str | None, *, processes: int) -> None:
    """Refuses to put all processes of a launch on a machine on one GPU.

    Raises:
        ConfigError: the device is a numbered one.
    """
    kind, numbered, _ = (device or "").partition(":")
    if numbered and processes > 1:
        raise ConfigError(
            f"--device {device} puts all {processes} processes on one GPU; nearest: --device {kind}, which gives each"
            " its own"
        )


def use_gpu(device: str | None) -> None:
    """Makes a GPU that is named by its number the one on which this process works."""
    import torch

    if device is not None and device.startswith("cuda:"):
        torch.cuda.set_device(device)


def use_device(local: str | None) -> None:
    """Makes the GPU of a launched process's local rank its own, where there are GPUs; and, where the launcher was asked
    for it, the processors near that GPU."""
    import torch

    if local is None or not torch.cuda.is_available():
        return
    torch.cuda.set_device(int(local) % torch.cuda.device_count())
    if os.environ.pop("ACCELERATE_CPU_AFFINITY", "").lower() in ("1", "true"):
        from accelerate.utils import set_numa_affinity  # type: ignore[import-untyped]

        set_numa_affinity(int(local) % torch.cuda.device_count())
