"""`auto` is bfloat16 where the device multiplies it; a run records which it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import precision
from experiments.checks import check
from experiments.config import override
from experiments.precision import fast_precision, slow_precision, with_precision
from experiments.presets import demo, preset

INTEL = "flags\t\t: fpu avx2 avx512f{} sha_ni\nbugs\t\t: spectre_v1"
ARM = "Features\t: fp asimd{} i8mm"


@pytest.mark.parametrize("text", [INTEL, ARM])
def test_processors_say_what_they_multiply(tmp_path: Path, text: str) -> None:
    listed = tmp_path / "cpuinfo"
    assert fast_precision("cpu", cpuinfo=listed) == "no"  # no Linux
    listed.write_text(text.format(""))
    assert fast_precision("cpu", cpuinfo=listed) == "no"
    for instruction in (" avx512_bf16", " amx_bf16", " bf16"):
        listed.write_text(text.format(instruction))
        assert fast_precision("cpu", cpuinfo=listed) == "bf16"


@pytest.mark.parametrize("native", [True, False])
def test_gpus_do_too(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """As torch tells it, emulation apart, which GPUs before Ampere need."""
    monkeypatch.setattr("experiments.training.launch.on_cpu", lambda device: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert fast_precision("cuda") == ("bf16" if native else "no")


@pytest.mark.parametrize(("fast", "other"), [("bf16", "no"), ("no", "bf16")])
def test_a_run_s_settings_say_which_it_was(monkeypatch: pytest.MonkeyPatch, fast: str, other: str) -> None:
    monkeypatch.setattr(precision, "fast_precision", lambda device: fast)
    settled = check(replace(demo(), device="cpu"))
    assert (settled.train.precision, settled.evaluate.precision) == (fast, fast) and slow_precision(settled) is None
    mixed = check(override(replace(demo(), device="cpu"), [f"train.precision={other}"]))
    assert (mixed.train.precision, mixed.evaluate.precision) == (other, fast)
    noted = slow_precision(mixed)
    assert (noted is None) == (fast == "bf16") and (noted is None or "nearest: train.precision=no" in noted)
    assert with_precision(preset("tiny")) == preset("tiny")
