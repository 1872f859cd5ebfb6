"""How many images a forward pass takes, so that it fits the memory that is free.

Handed the encoders of an extraction; hands on a number of images, judged by a pass of a few. On a GPU torch counts the
bytes, and what waits beside it, in pinned memory, must fit as well; on a processor the process's growth is read from
Linux, and elsewhere the usual size is taken. Free is what the machine has and the control groups allow, shared by the
processes of a launch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from encoders.base import Encoder
from encoders.decoding import batches_ahead
from encoders.transfer import PRECISIONS, batches_behind, place_of

BatchSize = int | Callable[[Sequence[Encoder]], int]
"""Images a forward pass, or what tells them for the encoders that lack features."""
USUAL = 64
LARGEST = {"cpu": USUAL, "cuda": 512}
"""On a processor more images a pass gain nothing."""
PROBE = 8
SHARE = 0.5
"""Of the free memory, what a pass may take; the rest is for parts on their way to the disk, and for others."""
STATUS, AVAILABLE = Path("/proc/self/status"), Path("/proc/meminfo")
GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LOCAL = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
"""Where torch's launcher, or some MPI, says how many of the processes it started are on this machine."""


def fitting_batch(encoders: Sequence[Encoder], *, device: str = "cpu", room: int | None = None) -> int:
    """The largest power of two of images whose passes fit, one encoder after the other.

    Args:
        encoders: those that compute; `USUAL` where there are none.
        room: bytes that are free on the device; by default what it has now.
    """
    kind = torch.device(device).type
    largest = LARGEST.get(kind, USUAL)
    own = [encoder for encoder in encoders if encoder.reads == "pixels"]
    room = free_bytes(device) if room is None else room
    if not own or room is None:
        return USUAL
    each = max(pass_bytes(encoder, device=device) for encoder in own) / PROBE
    if kind == "cpu":
        fitting = _fitting(room, each + waiting_bytes(own))
    else:
        memory = free_bytes("cpu")
        beside = largest if memory is None else _fitting(memory, waiting_bytes(own, pinned=True))
        fitting = min(_fitting(room, each), beside)
    return max(1, min(largest, 1 << max(0, fitting.bit_length() - 1)))


def _fitting(room: int, each: float) -> int:
    return int(SHARE * room / max(1.0, each))


def waiting_bytes(encoders: Sequence[Encoder], *, pinned: bool = False) -> int:
    """What an image takes in memory outside the passes: decoded, in float32; and beside a GPU its features, as they
    are stored, until they are looked at.

    Args:
        pinned: each batch is a block of pinned memory, of which torch takes powers of two bytes; a batch is a power of
            two images, so that each image's share is rounded just so.
    """
    place = place_of(encoders)
    behind = batches_behind(place)
    sizes = [preprocess.output for preprocess in dict.fromkeys(encoder.preprocess for encoder in encoders)]
    pixels = [4 * 3 * height * width for height, width in sizes]
    values = [one.num_tokens * one.width * PRECISIONS.get(one.dtype, torch.float32).itemsize for one in encoders]
    if pinned:
        pixels, values = ([1 << (size - 1).bit_length() for size in column] for column in (pixels, values))
    return (batches_ahead(place) + behind) * sum(pixels) + (behind + 1 if behind else 0) * sum(values)


def pass_bytes(encoder: Encoder, *, device: str = "cpu") -> int:
    """What a pass of `PROBE` black images takes at its peak, its result included; 0 where that cannot be seen."""
    images = torch.zeros(PROBE, 3, *encoder.preprocess.output)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            encoder.tokens(images)
        except torch.OutOfMemoryError:  # then it is one image at a time
            return int(torch.cuda.get_device_properties(device).total_memory) * PROBE
        return torch.cuda.max_memory_allocated(device) - before
    with peak_memory() as peak:
        encoder.tokens(images)
    return peak[0]


def free_bytes(device: str) -> int | None:
    """Bytes that a device has free; None where that is not known."""
    if torch.device(device).type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if torch.device(device).type != "cpu" or not AVAILABLE.exists():
        return None
    return min([1024 * _kibibytes(AVAILABLE, "MemAvailable"), *group_rooms()]) // local_processes()


def local_processes() -> int:
    """How many processes of this process's launch are on its machine, and share its memory and its cores."""
    told = [int(os.environ[name]) for name in LOCAL if os.environ.get(name, "").isdigit()]
    return max([1, *told])


def group_rooms(groups: Path = GROUPS, mount: Path = MOUNT) -> list[int]:
    """Bytes that are left of each limit on the process's control groups and those around them, as SLURM and containers
    set them; none where there is no limit. A file's pages count as used there, but are given up for others.

    Args:
        groups: which groups the process is in.
        mount: where the groups are seen: version 2 there, version 1 in its folder `memory`.
    """
    found: list[int] = []
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, used, kept = mount, "memory.max", "memory.current", ("inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            top, limit, used = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            kept = ("total_inactive_file", "total_active_file")
        else:
            continue
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(top):
                with suppress(OSError, ValueError):  # no such file in the root group, no number where it is "max"
                    room = int((group / limit).read_text()) - int((group / used).read_text())
                    stat = (group / "memory.stat").read_text().split()
                    pages = dict(zip(stat[::2], stat[1::2], strict=True))
                    found.append(max(0, room + sum(int(pages.get(name, 0)) for name in kept)))
    return found


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes that the process grows by inside, at most (Linux; 0 elsewhere)."""
    peak = [0]
    reset = STATUS.with_name("clear_refs")
    if not os.access(reset, os.W_OK):
        yield peak
        return
    reset.write_text("5")
    before = _kibibytes(STATUS, "VmRSS")
    yield peak
    peak[0] = 1024 * max(0, _kibibytes(STATUS, "VmHWM") - before)


def _kibibytes(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
