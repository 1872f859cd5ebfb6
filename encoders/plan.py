"""What an extraction has to compute, cut into blocks that do not depend on how far an earlier attempt came.

Several processes divide the images themselves, before any of them looks at what is stored: every image is in one's
share, whatever the others find and whenever they start. Of its share each leaves out what other extractions stored,
and cuts the rest into blocks, and a block into parts, in the order of the images. Parts of this very plan carry its
name and count as not yet stored while the blocks are cut, so a rerun after a kill finds the same blocks and batches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from encoders.errors import StoreError
from encoders.store import FeatureStore

PART_BYTES = 128 * 2**20
"""A part becomes no larger, but for one batch."""
PART_IMAGES = 1024
"""A part holds no more, so that a kill costs little, and there is work for several processes."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The share of one of several processes: every `count`-th lot of images, from the `index`-th on.

    A lot is a whole block. Processes that are not given the same batch size must be given sizes that divide
    `PART_IMAGES`: their lots are the same then, so that every image is in one's share.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads `2/4`, the second of four.

        Raises:
            StoreError: it is no shard.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise StoreError(f"shard {text!r} must be one of n, such as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(found[1]) - 1, int(found[2]))

    def of(self, digests: Sequence[str], *, lot: int) -> list[str]:
        """Its images, in order."""
        lots = range(self.index * lot, len(digests), self.count * lot)
        return [digest for start in lots for digest in digests[start : start + lot]]

    def within(self, index: int, count: int) -> Shard:
        """The share of process `index` of `count`, which together have this share."""
        return Shard(self.index + self.count * index, self.count * count)


@dataclass(frozen=True, slots=True)
class Block:
    """Images whose features are computed by one process in one go.

    Attributes:
        number: unique in the plan; blocks are numbered in the order of their first images.
        digests: the images in order.
        stores: positions of the stores that lacked them when the plan began.
    """

    number: int
    digests: tuple[str, ...]
    stores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The blocks of an extraction, and how it names itself in the parts that it writes."""

    name: str
    blocks: tuple[Block, ...]
    batch_size: int
    block_size: int

    @classmethod
    def of(
        cls,
        digests: Sequence[str],
        stores: Sequence[FeatureStore],
        *,
        batch_size: int,
        part_images: int = PART_IMAGES,
        shard: Shard = Shard(),  # noqa: B008  an immutable value
    ) -> Plan:
        """The plan for a share of distinct images in this order; its name is that of all of them."""
        size = batch_size
        while 2 * size <= part_images:
            size *= 2
        name = hashlib.sha256("\n".join([str(batch_size), str(size), *digests]).encode()).hexdigest()[:16]
        own = shard.of(digests, lot=size)
        lacking = [~store.part_list.stored_outside(name, own) for store in stores]
        groups: dict[tuple[int, ...], list[str]] = {}
        for digest, flags in zip(own, zip(*lacking, strict=True), strict=True):
            groups.setdefault(tuple(i for i, lacks in enumerate(flags) if lacks), []).append(digest)
        groups.pop((), None)
        cuts = [
            (tuple(members[start : start + size]), positions)
            for positions, members in groups.items()
            for start in range(0, len(members), size)
        ]
        place = {digest: number for number, digest in enumerate(own)}
        cuts.sort(key=lambda cut: place[cut[0][0]])
        return cls(name, tuple(Block(n, *cut) for n, cut in enumerate(cuts)), batch_size, size)

    def part_size(self, store: FeatureStore) -> int:
        """Images a part: a block, or a half, a quarter, … of it, whole batches in any case."""
        size = self.block_size
        while size > self.batch_size and size * store.bytes_per_image > PART_BYTES:
            size //= 2
        return size
