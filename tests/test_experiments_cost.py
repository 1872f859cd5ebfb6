"""What an encoder costs: its operations counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoders import load_encoder
from experiments.bench_extract import checkpoint
from experiments.cost import encoder_cost


def test_operations_are_those_counted_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.cost.ROUNDS", 1)
    checkpoint(tmp_path / "vit")
    encoder = load_encoder(f"vit=timm:{tmp_path}/vit")
    found = encoder_cost(encoder)
    length, width = 197, 384
    block = 2 * length * 12 * width**2 + 2 * 2 * length**2 * width  # four projections, the MLP; attention
    assert found["gflops"] == pytest.approx((12 * block + 2 * 196 * 3 * 16**2 * width) / 1e9)
    assert found["params"] == encoder.num_params and found["tokens"] == length and found["ms_per_image"] > 0
