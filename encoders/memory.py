"""How many images a forward pass takes, so that it fits the memory that is free.

Handed the encoders of an extraction; hands on a number of images, judged by a pass of a few. On a GPU torch counts the
bytes, and what waits beside it, in pinned memory, must fit as well; on a processor the process's growth is read from
Linux, and elsewhere the usual size is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        beside = largest if memory is None else _fitting(memory, waiting_bytes(own))
        fitting = min(_fitting(room, each), beside)
    return max(1, min(largest, 1 << max(0, fitting.bit_length() - 1)))


def _fitting(room: int, each: float) -> int:
    return int(SHARE * room / max(1.0, each))


def waiting_bytes(encoders: Sequence[Encoder]) -> int:
    """What an image takes in memory outside the passes: decoded, in float32; and beside a GPU its features, as they
    are stored, until they are looked at."""
    place = place_of(encoders)
    behind = batches_behind(place)
    sizes = [preprocess.output for preprocess in dict.fromkeys(encoder.preprocess for encoder in encoders)]
    pixels = sum(4 * 3 * height * width for height, width in sizes)
    values = [one.num_tokens * one.width * PRECISIONS.get(one.dtype, torch.float32).itemsize for one in encoders]
    return (batches_ahead(place) + behind) * pixels + (behind + 1 if behind else 0) * sum(values)


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
    return 1024 * _kibibytes(AVAILABLE, "MemAvailable")


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
