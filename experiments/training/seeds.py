"""Seeds that belong to a step: whatever a step draws depends on the run's seed and the step alone."""

from __future__ import annotations

from hashlib import blake2b

import torch


def seed_of(*key: int | str) -> int:
    """A seed that depends on the key alone."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=7).digest(), "big")


def generator_of(*key: int | str) -> torch.Generator:
    """A generator on the CPU that depends on the key alone."""
    return torch.Generator().manual_seed(seed_of(*key))
