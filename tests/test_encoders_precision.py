"""float32 features are float32 whatever a process has set: on a GPU, and on processors that would round products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders_checkpoints import timm_checkpoint
from encoders_folders import timm_folder

from encoders import load_encoder
from encoders.precision import OPERATIONS, whole_float32

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def readings() -> dict[str, Any]:
    """Every setting as torch tells it, or that it refuses to."""
    backends: Any = torch.backends
    found = {}
    ways = {
        "convolutions": lambda: backends.cudnn.allow_tf32,
        "products": lambda: backends.cuda.matmul.allow_tf32,
        "products by name": torch.get_float32_matmul_precision,
        **{f"{one}.{other}": lambda one=one, other=other: precision(one, other) for one, other in OPERATIONS},
    }
    for name, read in ways.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "refused"
    return found


def precision(backend: str, operation: str) -> str:
    return str(getattr(getattr(torch.backends, backend), operation).fp32_precision)


@pytest.fixture(params=["as it comes", "legacy", "by name", "all", "mixed"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A process that asked for rounding, in each of the ways that torch has."""
    backends: Any = torch.backends
    if request.param == "legacy":
        backends.cuda.matmul.allow_tf32 = True
    elif request.param == "by name":
        torch.set_float32_matmul_precision("medium")
    elif request.param == "all":
        monkeypatch.setattr(backends, "fp32_precision", "tf32")
    elif request.param == "mixed":
        monkeypatch.setattr(backends.cudnn.rnn, "fp32_precision", "ieee")
    yield request.param
    monkeypatch.undo()
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "bf16"])
def test_nothing_is_rounded_while_an_encoder_computes(tmp_path: Path, asked: str, dtype: str) -> None:
    timm_folder(tmp_path / "net", kind="convnext")
    encoder: Any = load_encoder(f"timm:{tmp_path}/net?dtype={dtype}")
    seen = []
    right = encoder._forward
    encoder._forward = lambda *given: seen.append(readings()) or right(*given)
    before = readings()
    encoder.tokens(IMAGES)
    assert readings() == before and precision("cudnn", "conv") == "tf32"
    [inside] = seen
    assert {inside[f"{backend}.{operation}"] for backend, operation in OPERATIONS} == {"ieee"}
    if asked != "mixed":
        assert (inside["convolutions"], inside["products"], inside["products by name"]) == (False, False, "highest")


def test_settings_are_put_back_after_a_failure(asked: str) -> None:
    before = readings()
    with pytest.raises(ZeroDivisionError), whole_float32():
        raise ZeroDivisionError
    assert readings() == before


def test_tokens_do_not_follow_the_process(tmp_path: Path) -> None:
    """At this width `medium` changes the products of a processor with AVX-512, in their last digits at least."""
    timm_checkpoint(tmp_path / "net", "vit_small_patch16_224", args={"depth": 1})
    encoder = load_encoder(f"timm:{tmp_path}/net?dtype=fp32")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    expected = encoder.tokens(images)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(encoder.tokens(images), expected)
    finally:
        torch.set_float32_matmul_precision("highest")
