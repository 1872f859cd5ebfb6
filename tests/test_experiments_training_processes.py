"""Two processes do what one does: the same losses, the same answers in the same order, one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
STEPS = 20
SIZES = [
    "world_scale=0.01",
    f"train.steps={STEPS}",
    "train.blind_steps=2",
    "train.batch_size=24",
    "train.groups=3",
    "train.log_steps=1",
    "train.validate_steps=20",
    "train.trackers=[]",
    "evaluate.batch_size=16",
    "evaluate.rerank=4",
    "fusion.width=32",
    "fusion.layers=2",
    "fusion.text=scratch",
    "fusion.dropout=0.0",
]
"""float32, no dropout; 24 examples in groups of 8; batches of 16 do not divide the splits."""


def combine(
    folder: Path,
    run: str,
    *,
    processes: int,
    tasks: Sequence[str] = ("gqa", "flickr30k"),
    seeds: Sequence[str] = ("0", "1"),
    more: Sequence[str] = ("--set", *SIZES),
) -> subprocess.CompletedProcess[str]:
    # `--multi_gpu` is the launcher that starts processes by itself, on CPUs too; `--cpu` leaves that to MPI.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launch += ["--main_process_port", "0"]
    places = ["--runs", str(folder / "runs"), "--cache", str(folder / "cache")]
    command = ["-m", "experiments.combine", "--ddp", "--preset", "tiny", *places, "--tasks", *tasks]
    command += ["--encoders", "vit=demo:vit", "clip=demo:clip", "--seeds", *seeds, "--run", run, *more]
    line = [sys.executable, *(launch if processes > 1 else []), *command]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one` by one process; `two` by two, of which seed 0 starts with the models that `one` trained."""
    folder = tmp_path_factory.mktemp("processes")
    one = combine(folder, "one", processes=1)
    assert one.returncode == 0, one.stderr[-3000:]
    given = folder / "runs" / "two" / "train"
    given.mkdir(parents=True)
    for file in (folder / "runs" / "one" / "train").glob("*-0.*"):
        shutil.copy(file, given)
    two = combine(folder, "two", processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("run two:") == 1 and two.stdout.count("report:") == 1
    return folder / "runs"


def record(runs: Path, run: str, model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / run / "train" / f"{model}.json").read_text())
    return found


@pytest.mark.parametrize("model", ["gqa-masked-1", "flickr30k-masked-1", "gqa-blind-1"])
def test_the_first_losses_are_those_of_one_process(runs: Path, model: str) -> None:
    one, two = (record(runs, run, model)["losses"] for run in ("one", "two"))
    assert len(one) == (2 if "blind" in model else STEPS)
    assert [step for step, _ in two] == [step for step, _ in one]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-5)


def test_the_same_models_give_the_same_answers_in_the_same_order(runs: Path) -> None:
    names = sorted(file.name for file in (runs / "one" / "answers").glob("*.0.*"))
    assert len(names) == 4 + 3 + 1 + 1 + 3 + 3 + 1 + 1  # coalitions, on validation, shuffled, blind or reranked
    for name in names:
        one, two = (pq.read_table(runs / run / "answers" / name) for run in ("one", "two"))
        for column in ("id", "direction", "prediction", "target", "score", "rank"):
            assert two[column].to_pylist() == one[column].to_pylist(), (name, column)
        before, after = (table["logprob"].fill_null(0.0).to_pylist() for table in (one, two))
        assert after == pytest.approx(before, rel=1e-5), name
    tables = [pq.read_table(runs / run / "attention" / "gqa.0.parquet").to_pydict() for run in ("one", "two")]
    assert tables[1]["mass"] == pytest.approx(tables[0]["mass"], rel=1e-5) and tables[1]["n"] == tables[0]["n"]


def test_models_trained_by_two_processes_score_alike(runs: Path) -> None:
    results = [json.loads((runs / run / "results.json").read_text())["tasks"] for run in ("one", "two")]
    for task in ("gqa", "flickr30k"):
        one, two = (found[task]["coalitions"] for found in results)
        assert [entry["n"] for entry in two] == [entry["n"] for entry in one]
        for before, after in zip(one, two, strict=True):
            assert abs(after["value"] - before["value"]) <= 0.015, (task, before["encoders"])
    assert json.loads((runs / "two" / "environment.json").read_text())["processes"] == 2
    assert not list((runs / "two").rglob(".tmp-*")) and not list((runs / "two").rglob("*.checkpoints"))


def test_two_processes_train_the_controls_together(tmp_path: Path) -> None:
    """The controls are made of what the first process has written; the second may come before it has."""
    sizes = ["world_scale=0.004", "train.steps=2", "train.blind_steps=null", "train.validate_steps=2", "train.trials=3"]
    more = ["--controls", "full", "--coalitions", "both", "--set", *SIZES, *sizes]
    done = combine(tmp_path, "controls", processes=2, tasks=["gqa"], seeds=["0"], more=more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report:") == 1 and "wait for" not in done.stdout
    folder = tmp_path / "runs" / "controls"
    controls = json.loads((folder / "results.json").read_text())["tasks"]["gqa"]["controls"]
    assert {"duplicate", "seeds", "matched", "averaged", "blind", "shuffled"} <= set(controls)
    trained = [json.loads(path.read_text()) for path in (folder / "train").glob("*.json")]
    assert {record["kind"] for record in trained} >= {"masked", "blind", "retrained", "duplicate", "seeds"}
    budget = {"trials": 3, "steps": 2, "batch_size": 24, "lr": 5e-4}
    assert [record["budget"] for record in trained] == [budget] * len(trained)
