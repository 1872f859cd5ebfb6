"""Processes that extract features, to be killed: an encoder that is quick and says what it was given.

Handed to a fork server, so that starting one costs milliseconds.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoders.base import Encoder
from encoders.extract import Shard, extract
from encoders.preprocess import Preprocess

PLAIN = Preprocess("exact", (16, 16), "nearest", None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Told(Encoder):
    """Writes `alias number` for each image that it encodes; tokens are the number plus the token's place.

    Images are of one colour, which spells their number.
    """

    num_prefix = 0
    num_params = 0

    def __init__(
        self, alias: str, *, log: Path | None = None, grid: tuple[int, int] = (2, 2), pause: float = 0
    ) -> None:
        self.alias = alias
        self.name = f"test:{alias}"
        self.width, self.grid, self.dtype, self.preprocess = 5, grid, "fp32", PLAIN
        self.fingerprint = f"{int.from_bytes(alias.encode()):064x}"
        self._log, self._pause = log, pause

    def tokens(self, images: Tensor) -> Tensor:
        levels = (images[:, :, 0, 0] * 255).round().long()
        numbers = levels[:, 0] * 256 + levels[:, 1]
        time.sleep(self._pause)
        if self._log is not None:
            with self._log.open("ab", buffering=0) as log:
                log.write("".join(f"{self.alias} {number}\n" for number in numbers.tolist()).encode())
        places = torch.arange(self.num_tokens * self.width).reshape(self.num_tokens, self.width)
        return (numbers[:, None, None] + places).float()


def numbered(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """Small images of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        Image.fromarray(np.full((16, 16, 3), (number // 256, number % 256, 7), np.uint8)).save(path)
    return paths


def pair(log: Path | None, pause: float = 0) -> list[Encoder]:
    """Two encoders of different sizes, so that their parts have different numbers of images."""
    return [Told("small", log=log, pause=pause), Told("large", log=log, grid=(8, 8), pause=pause)]


def work(
    root: Path,
    paths: list[Path],
    log: Path,
    index: int,
    count: int,
    batch_size: int,
    part_images: int,
    part_bytes: int,
) -> None:
    """The body of one process: its share of the extraction."""
    torch.set_num_threads(1)
    import encoders.plan

    encoders.plan.PART_BYTES = part_bytes
    shard = Shard(index, count)
    extract(
        paths,
        pair(log, pause=0.002),
        root=root,
        batch_size=batch_size,
        progress="none",
        workers=2,
        shard=shard,
        part_images=part_images,
    )
    os._exit(0)
