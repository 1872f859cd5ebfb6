"""The presets for real datasets run: the trunk at its real width, the recipes' settings but for small batches.

Under SOAK both of them with all layers, else one with two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SOAK
from fusion_checkpoints import text_folder
from schemas import validate

from experiments.checks import check
from experiments.config import override
from experiments.precision import fast_precision
from experiments.presets import PRESETS, demo
from experiments.world.build import build_world

ROOT = Path(__file__).parent.parent
TASKS = ("hateful_memes", "flickr30k")


@pytest.mark.parametrize("preset", ["base", "large"] if SOAK else ["base"])
def test_a_preset_for_real_data_runs(preset: str, tmp_path: Path) -> None:
    made = PRESETS[preset]()
    layers = made.fusion.layers if SOAK else 2
    sizes = {"hidden_size": made.fusion.width, "num_attention_heads": made.fusion.heads, "num_hidden_layers": layers}
    sizes |= {"intermediate_size": 4 * made.fusion.width, "max_position_embeddings": 512}
    text = text_folder("bert", tmp_path / "bert", initializer_range=0.02, **sizes)
    places = {"data": str(build_world(tmp_path / "data", seed=3, scale=0.005)), "runs": str(tmp_path / "runs")}
    places |= {"cache": str(tmp_path / "cache"), "device": "cpu", "run": preset}
    encoders = {alias: demo().encoders[alias] for alias in ("clip", "dino")}
    named = replace(made, encoders=encoders, tasks=TASKS, **places)  # type: ignore[arg-type]
    parts = ("steps=2", "epochs=null", "batch_size=16", "accumulate=2")
    few = [f"train.per_task.{task}.{part}" for task in TASKS for part in parts]
    small = ["evaluate.limit=24", "evaluate.attention_examples=8", "evaluate.rerank=2", f"fusion.layers={layers}"]
    asked = check(override(named, [f"fusion.text={text}", *few, *small]))
    for task in TASKS:  # all else as published
        few_steps = {"steps": 2, "epochs": None, "batch_size": 16, "accumulate": 2, "precision": fast_precision("cpu")}
        assert asked.train_of(task) == replace(made.train_of(task), **few_steps)
    (tmp_path / "config.json").write_text(json.dumps(asked.to_dict()))
    line = [sys.executable, "-m", "experiments.combine", "--config", str(tmp_path / "config.json")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = asked.folder
    results = json.loads((folder / "results.json").read_text())
    validate("results", results)
    for task in TASKS:
        record = json.loads((folder / "train" / f"{task}-masked-0.json").read_text())
        assert record["steps"] == 2 and record["parameters"] > layers * 12 * made.fusion.width**2
        assert len(results["tasks"][task]["coalitions"]) == 4
