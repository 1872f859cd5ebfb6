"""Runs that several processes share, a model each: what each takes, and that together they make what one makes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from schemas import validate

from encoders.errors import StoreError
from experiments.combine import run
from experiments.config import RunConfig
from experiments.errors import ConfigError
from experiments.model import write_json
from experiments.presets import preset
from experiments.share import LEFT_ALONE, Share, left_alone, own_share
from experiments.world.build import build_world
from tasks import load_task

ROOT = Path(__file__).parent.parent
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCHER = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    build_world(home / "data", seed=2, scale=0.01)
    return home


def config(home: Path, name: str, **changes: object) -> RunConfig:
    made = preset("tiny")
    train = replace(made.train, joint=False, steps=2, blind_steps=1, batch_size=12)
    places = {"data": str(home / "data"), "cache": str(home / "cache"), "runs": str(home / "runs"), "run": name}
    encoders = {"vit": "demo:vit", "clip": "demo:clip"}
    made = replace(made, tasks=("gqa", "snli_ve"), encoders=encoders, train=train, device="cpu", **places)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def answers(home: Path, name: str) -> dict[str, list[float]]:
    files = sorted((home / "runs" / name / "answers").iterdir())
    return {file.name: pq.read_table(file)["probability"].to_pylist() for file in files}


def test_shares_that_start_together_write_the_same_files(tmp_path: Path) -> None:
    """A job array's processes all write the run's settings at once; none may take another's unfinished file."""
    write = partial(write_json, tmp_path / "config.json", {"seeds": [0, 1, 2]})
    with ThreadPoolExecutor(8) as processes:
        for written in [processes.submit(write) for _ in range(200)]:
            written.result()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_share_is_named_or_comes_from_a_launcher() -> None:
    assert own_share(None, ddp=False, environment={}) == (Share(), None)
    assert own_share("3/16", ddp=False, environment={}) == (Share(2, 16), None)
    left = dict(LAUNCHER)
    assert own_share(None, ddp=False, environment=left) == (Share(1, 2, patient=True), "1")
    assert left == {"LOCAL_WORLD_SIZE": "2"}  # accelerate takes it for the only one; it shares the machine still
    assert own_share("2/3", ddp=False, environment=dict(LAUNCHER)) == (Share(4, 6), "1")
    kept = dict(LAUNCHER)
    assert own_share(None, ddp=True, environment=kept) == (Share(), None) and kept == LAUNCHER
    for ddp in (False, True):  # of one process: its rank would choose its GPU, whatever --device says
        one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
        assert own_share("3/16", ddp=ddp, environment=one) == (Share(2, 16), None) and one == {}
    with pytest.raises(ConfigError, match="WORLD_SIZE=8 is set, but RANK is not"):
        own_share(None, ddp=False, environment={"WORLD_SIZE": "8"})
    by_mpi = {"OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    assert own_share(None, ddp=True, environment=by_mpi) == (Share(), None) and "MASTER_ADDR" in by_mpi
    with pytest.raises(StoreError, match="17/16"):
        own_share("17/16", ddp=False, environment={})


def test_accelerate_on_cpus_starts_one_process_and_that_is_said() -> None:
    """What accelerate 1.15 leaves in the environment, asked for one or two processes, with and without MPI."""
    alone = {"ACCELERATE_USE_CPU": "True"}
    assert not left_alone({}) and not left_alone(alone)
    two = {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert left_alone(two)
    assert not left_alone({**two, "PMI_SIZE": "2"}) and not left_alone({**two, "WORLD_SIZE": "2"})
    line = [*ACCELERATE, "--cpu", "--num_processes", "2", "--module", "experiments.combine", "--preset", "none"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stderr.count(LEFT_ALONE) == 1 and done.stderr.count("error: unknown preset 'none'") == 1


def test_shares_cover_everything_once() -> None:
    items = list(range(11))
    assert sorted(item for k in range(4) for item in Share(k, 4).of(items)) == items
    asked = iter([False, False, True])
    assert Share(0, 2, patient=True).wait(lambda: next(asked), seconds=0)
    assert not Share(0, 2).wait(lambda: False)


def test_shards_one_after_the_other_make_one_run(home: Path) -> None:
    said: list[str] = []
    run(config(home, "whole"), say=said.append)
    folder = home / "runs" / "parts"
    run(config(home, "parts"), share=Share(0, 2), say=said.append)
    assert not (folder / "report.html").exists() and "2 of the run's models are with other shards" in said[-1]
    run(config(home, "parts"), share=Share(1, 2), say=said.append)
    assert (folder / "report.html").exists()
    assert answers(home, "parts") == answers(home, "whole")


def test_controls_of_a_shard_wait_for_the_models_they_are_made_of(home: Path) -> None:
    said: list[str] = []
    full = config(home, "full", controls="full", tasks=("gqa",))
    for share in (Share(0, 2), Share(1, 2)):
        run(full, share=share, say=said.append)
    (line,) = [line for line in said if "the trained controls wait for" in line]
    assert "run this again" in line
    run(full, share=Share(0, 2), say=said.append)
    modes = {file.split(".")[2] for file in answers(home, "full")}
    assert modes == {"masked", "blind", "shuffled", "retrained", "duplicate", "seeds", "averaged"}
    assert (home / "runs" / "full" / "report.html").exists()
    assert any(line.startswith("control matched of") and "is not run" in line for line in said)


def test_retrained_coalitions_alone_are_the_table(home: Path) -> None:
    said: list[str] = []
    tasks = ("gqa", "flickr30k")
    alone = config(home, "alone", controls="full", coalitions="retrained", tasks=tasks)
    for share in (Share(0, 2), Share(1, 2), Share(0, 2), Share(1, 2)):  # the controls wait for all coalitions
        run(alone, share=share, say=said.append)
    folder = home / "runs" / "alone"
    cells = {tuple(name.split(".")[k] for k in (0, 2, 4)) for name in answers(home, "alone")}
    modes = {mode for _, mode, _ in cells}
    assert "masked" not in modes
    assert modes >= {"retrained", "blind", "shuffled", "reranked", "duplicate", "averaged"}
    table = {task: {c for name, mode, c in cells if (name, mode) == (task, "retrained")} for task in tasks}
    assert table == {"gqa": {"none", "vit", "clip", "vit+clip"}, "flickr30k": {"vit", "clip", "vit+clip"}}
    records = {path.stem: json.loads(path.read_text()) for path in (folder / "train").glob("*.json")}
    assert all(record["steps"] == 2 for record in records.values())  # that of no encoder, the blind one too, included
    found = json.loads((folder / "results.json").read_text())
    validate("results", found)
    for task in found["tasks"].values():
        assert {entry["mode"] for entry in task["coalitions"]} == {"retrained"} and task["steps"] == 2
        assert "model of its own" in task["sensitivity"]["retrained"]["not_run"]
        assert task["best_single"]["encoder"] in task["controls"]["duplicate"]["encoders"]
    assert found["tasks"]["gqa"]["coalitions"][0]["value"] == found["tasks"]["gqa"]["controls"]["blind"]["value"]
    report = (folder / "report.md").read_text()
    assert "Every coalition has a model of its own" in report and "one model that was trained for it" not in report
    assert "Dropping one encoder (each coalition has a model of its own):" in said


def test_launched_processes_take_a_model_each(home: Path) -> None:
    # `--multi_gpu` is the launcher that starts processes by itself, on CPUs too; `--cpu` leaves that to MPI.
    launch = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "--module"]
    settings = ["train.joint=false", "train.steps=2", "train.blind_steps=1", "train.batch_size=12"]
    places = ["--data", str(home / "data"), "--cache", str(home / "fresh"), "--runs", str(home / "runs")]
    what = ["--preset", "tiny", "--tasks", "gqa", "snli_ve", "--encoders", "vit=demo:vit", "clip=demo:clip"]
    line = [*launch, "experiments.combine", *what, *places, "--device", "cpu", "--run", "launched", "--set", *settings]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run launched:") == 1 and "report:" in done.stdout
    assert {"training gqa-masked:", "training snli_ve-masked:"} <= set(re.findall(r"training \S+:", done.stderr))
    found, expected = answers(home, "launched"), answers(home, "whole")
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], abs=1e-4), name


def test_images_left_out_are_said_in_the_results(home: Path) -> None:
    data = home / "data" / "gqa"
    names = sorted(path.name for path in (data / "images").iterdir())
    lists = home / "exclude.json"
    used = {e.image for e in load_task("gqa").read(data, "test").examples}
    gone = [name for name in names if name in used][:2]
    lists.write_text(json.dumps(gone))
    said: list[str] = []
    run(config(home, "lacking", tasks=("gqa",), exclude=str(lists)), say=said.append)
    results = json.loads((home / "runs" / "lacking" / "results.json").read_text())
    assert results["tasks"]["gqa"]["excluded_images"] == {"train": 0, "select": 0, "test": 2}
    assert "gqa: left out 0 images of train, 0 images of select, 2 images of test" in said
    assert not answers_images(home, "lacking") & set(gone)
    report = (home / "runs" / "lacking" / "report.md").read_text()
    assert "Images left out with their examples, in all splits together: GQA 2." in report


def answers_images(home: Path, name: str) -> set[str]:
    file = home / "runs" / name / "answers" / "gqa.0.masked.drop.vit.parquet"
    return set(pq.read_table(file)["image"].to_pylist())
