"""The table of fusion operators: its figures by hand from run folders, and the command that makes those."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.compare_operators import command, configure_each, main, parser
from experiments.errors import ConfigError
from experiments.operator_table import measured, page
from experiments.training.clock import StepClock
from experiments.world.build import build_world
from fusion import OPERATORS


def write_folder(folder: Path, *, device: str, score: float, models: list[tuple[int, float, float]]) -> Path:
    """A finished run of one task, with (parameters, ms on the clock, ms on the processors) of each model."""
    whole = {"encoders": ["a", "b"], "value": score, "ci95": [score - 0.05, score + 0.05], "n": 200}
    task: dict[str, Any] = {"metric": "accuracy", "n": 200, "images": 50, "chance": 0.25, "steps": 300}
    task["coalitions"] = [{}, whole]
    task["gain_over_floor"] = {"value": score - 0.55, "ci95": [score - 0.6, score - 0.5], "n": 200}
    train = {"joint": False, "batch_size": 64}
    content: dict[str, Any] = {
        "results.json": {
            "encoders": ["a", "b"],
            "tasks": {"gqa": task},
            "provenance": {"config": {"train": train, "seeds": [0, 1]}},
        },
        "environment.json": {"device": device, "threads": 1, "cores": 2, "packages": {"torch": "2.13.0"}},
        "train/gqa-blind-0.json": {"kind": "blind", "parameters": 9_999_999, "step_ms": None},
    }
    for number, (parameters, wall, processor) in enumerate(models):
        record = {"kind": "masked", "parameters": parameters, "step_ms": {"wall": wall, "processor": processor}}
        content[f"train/gqa-masked-{number}.json"] = record
    for name, values in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    return folder


def test_figures_of_the_table_by_hand(tmp_path: Path) -> None:
    folders = {
        "concat": write_folder(tmp_path / "a", device="cpu", score=0.5, models=[(1000, 90, 40), (1100, 30, 60)]),
        "late": write_folder(tmp_path / "b", device="cpu", score=0.612, models=[(3000, 9, 120)]),
    }
    text, table = page(folders, command="python -m experiments.compare_operators --set train.steps=300")
    assert table.splitlines() == [
        "| operator | parameters | step, ms | ÷ concat | GQA |",
        "|---|---|---|---|---|",
        "| `concat` | 1,100 | 50 | 1.00 | 50.0 (45.0 to 55.0) |",
        "| `late` | 3,000 | 120 | 2.40 | **61.2 (56.2 to 66.2)** |",  # the gain's interval is above zero
    ]
    assert "Other work had the processors meanwhile: steps took 0.1 to 2.2 times that on the clock." in text
    assert "| GQA | accuracy | 200 | 50 | 25.0 |" in text
    assert "a model a task, 300 steps of 64 examples, seed 0, 1; cpu, 1 of 2 cores" in text
    assert "Made by `python -m experiments.compare_operators --set train.steps=300`" in text


def test_a_gpu_is_timed_on_the_clock_and_what_was_not_timed_is_said(tmp_path: Path) -> None:
    assert measured(write_folder(tmp_path / "a", device="cuda", score=0.5, models=[(10, 90, 40)])).step_ms == 90
    folder = write_folder(tmp_path / "b", device="cpu", score=0.5, models=[(10, 90, 40)])
    record = json.loads((folder / "train/gqa-masked-0.json").read_text())
    (folder / "train/gqa-masked-0.json").write_text(json.dumps(record | {"step_ms": None}))
    assert "| `late` | 10 | not timed | not timed |" in page({"late": folder}, command="…")[1]


def test_of_models_of_single_coalitions_that_of_all_encoders_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", device="cuda", score=0.5, models=[(10, 90, 40), (7, 30, 10)])
    for number, of in enumerate(("a+b", "b")):
        path = folder / f"train/gqa-masked-{number}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "retrained", "of": of}))
    found = measured(folder)
    assert (found.parameters, found.step_ms) == (10, 90)


def test_a_step_is_timed_without_what_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    at = iter([1.0, 1.2, 1.5, 9.0, 9.1])  # 200 ms, 300 ms, a validation, 100 ms
    monkeypatch.setattr(time, "perf_counter", lambda: next(at))
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    clock = StepClock()
    assert clock.record() is None
    for rest in (False, False, True, False, False):
        clock.step_ended()
        if rest:
            clock.rest()
    assert clock.record() == {"wall": 200.0, "processor": 0.0}


def test_every_operator_is_a_run_of_its_own() -> None:
    args = parser().parse_args(["--tasks", "gqa", "--set", "train.steps=7", "--cache", "elsewhere"])
    configs = configure_each(args)
    assert list(configs) == list(OPERATORS)
    for name, config in configs.items():
        assert (config.fusion.operator, config.name, config.train.steps) == (name, f"operators-{name}", 7)
        assert (config.controls, config.tasks) == ("none", ("gqa",))
    assert command(args) == "python -m experiments.compare_operators --tasks gqa --set train.steps=7"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--operators", "concatt"], "did you mean 'concat'"),
        (["--fusion", "late"], "a comparison takes --operators"),
        (["--set", "train.stepz=1"], "did you mean 'steps'"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=said):
        configure_each(parser().parse_args(flags))
    assert main(flags) == 1
    assert said in capsys.readouterr().err


def test_the_command_writes_the_table_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_world(tmp_path / "data", seed=2, scale=0.01)
    places = [f"--{name}={tmp_path / name}" for name in ("data", "runs", "cache", "out")]
    asked = ["--preset", "tiny", "--tasks", "gqa", "--encoders", "vit=demo:vit", "clip=demo:clip", "--device", "cpu"]
    line = [*asked, *places, "--set", "train.steps=8", "train.batch_size=12"]
    assert main([*line, "--operators", "concat", "gated", "--shard", "1/2"]) == 0
    assert "gated: not finished yet" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main([*line, "--operators", "concat", "gated", "--shard", "2/2"]) == 0
    shown = capsys.readouterr()
    assert "training gqa" in shown.err and "| `gated` |" in shown.out
    page = (tmp_path / "out").read_text()
    results = json.loads((tmp_path / "runs" / "operators-gated" / "results.json").read_text())
    score = 100 * results["tasks"]["gqa"]["coalitions"][-1]["value"]
    (row,) = (line for line in page.splitlines() if line.startswith("| `gated` |"))
    assert f"| {score:.1f} (" in row and "not timed" not in row
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/answers/*")}
    assert main([*line, "--operators", "concat", "gated"]) == 0
    assert "training gqa" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before and (tmp_path / "out").read_text() == page
