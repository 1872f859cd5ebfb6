"""Features on their way to a GPU, as the store hands them out; `pin_memory` is emulated where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_encoders_store import META
from torch import Tensor

from encoders.store import FeatureStore
from fusion.types import Features

DIGESTS = ["0" * 64, "1" * 64]


def pinned_as_pytorch_does(tensor: Tensor) -> Tensor:
    """`at::_pin_memory` but for the kind of memory: a storage of its own, the same sizes and strides, a copy."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    storage = torch.empty(reach, dtype=tensor.dtype).untyped_storage()
    target = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, tensor.stride())
    return target.copy_(tensor)


def test_a_batch_of_the_store_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its boxes and `valid` are one copy for all images, which `pin_memory` itself refuses."""
    store = FeatureStore(tmp_path, replace(META, dtype="fp16"))
    store.write_part(DIGESTS, torch.arange(12.0).reshape(2, 2, 3))
    batch = Features(*store.read(DIGESTS, precision="stored"))
    assert batch.boxes.stride(0) == 0 and batch.valid.stride(0) == 0
    monkeypatch.setattr(Tensor, "pin_memory", pinned_as_pytorch_does)
    with pytest.raises(RuntimeError, match="single memory location"):
        batch.boxes.pin_memory()
    pinned = batch.pinned()
    for part in ("tokens", "boxes", "valid"):
        found, given = getattr(pinned, part), getattr(batch, part)
        assert torch.equal(found, given) and found.dtype == given.dtype
        assert found.is_contiguous() and found.data_ptr() != given.data_ptr()
