"""Initial weights that depend on a key alone, so that the order of the encoders changes none of them.

Handed a key such as (seed, "adapter", alias), lends a random state that belongs to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Makes initial weights depend on the key alone, and leaves the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        seed = int.from_bytes(blake2b(repr(key).encode(), digest_size=7).digest(), "big")
        torch.default_generator.manual_seed(seed)
        yield
