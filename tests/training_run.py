"""One small run of the real pipeline, as a worker process does it, and what is left of it to compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES = {
    "steps": 12,
    "blind_steps": 4,
    "batch_size": 12,
    "checkpoint_steps": 2,
    "validate_steps": 4,
    "validate_examples": 3,
    "log_steps": 5,
    "ema": 0.9,
    "keep": "best",
    "joint": True,
    "groups": 2,
    "lr": 1e-3,
    "fill": "drop",
    "trackers": (),
}


def configured(folder: Path, name: str) -> Any:
    """Two encoders, two tasks, dropout, a moving average and the best model kept: all that has a state."""
    from dataclasses import replace

    from experiments.config import EvaluateConfig, RunConfig
    from experiments.training.settings import TrainConfig
    from fusion.config import FusionConfig

    return RunConfig(
        "tiny",
        {"vit": "demo:vit", "clip": "demo:clip"},
        tasks=("gqa", "flickr30k"),
        world_scale=0.005,
        run=name,
        runs=str(folder / "runs"),
        cache=str(folder / "cache"),
        device="cpu",
        fusion=FusionConfig(width=32, layers=2, heads=2, text="scratch", dropout=0.1),
        train=replace(TrainConfig(), **SIZES),
        evaluate=EvaluateConfig(batch_size=16, rerank=2),
    )


def work(folder: Path, name: str) -> None:
    """Does the run, or goes on with it."""
    import torch

    from experiments.combine import run

    torch.set_num_threads(1)
    run(configured(folder, name), say=lambda line: None)


def content(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for what tells the time."""
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        timed = name.endswith("-cost.png") or name in ("environment.json", "cost.json", "config.json")
        if timed or file.suffix in (".html", ".md", ".svg"):
            found[name] = None
        elif name == "results.json":
            found[name] = json.loads(file.read_text())["tasks"]
        elif file.suffix == ".json":
            values = json.loads(file.read_text())
            found[name] = {key: value for key, value in values.items() if key not in ("seconds", "step_ms", "waiting")}
        elif file.is_file():
            found[name] = file.read_bytes()
    return found
