"""A run that is killed at random moments of training and evaluation ends as the one that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import SOAK
from training_run import content, work

KILLS = 20 if SOAK else 3


class Runs:
    """Processes that do runs in one folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        loaded = ["encoders.torchvision_compat", "experiments.pipeline", "timm", "open_clip"]
        self._context.set_forkserver_preload(loaded)

    def start(self, name: str) -> BaseProcess:
        process = self._context.Process(target=work, args=(self.folder, name))
        process.start()
        return process

    def finish(self, name: str) -> None:
        process = self.start(name)
        process.join(120)
        assert process.exitcode == 0

    def done(self, name: str) -> int:
        """Checkpoints' steps and cells written so far: a number that grows while the run goes on."""
        run = self.folder / "runs" / name
        models = sorted((run / "train").glob("*.safetensors"))
        steps = [int(path.name.removeprefix("step-")) for path in run.glob("train/*.checkpoints/step-????????")]
        return 100 * len(models) + max(steps, default=0) + len(list((run / "answers").glob("*.parquet")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("kills"))
    made.finish("calm")
    return made


def test_killed_runs_end_as_the_one_left_alone(runs: Runs) -> None:
    draw, names, kills, phases = random.Random(0), ["0"], 0, set()
    calm = content(runs.folder / "runs" / "calm")
    while kills < KILLS:
        name = names[-1]
        # In turn: while the first model trains, while cells are written, while the second model trains.
        after = (draw.randrange(2, 11), 100 + draw.randrange(1, 15), 100 + draw.randrange(15, 19))[kills % 3]
        process = runs.start(name)
        while runs.done(name) < after and process.is_alive():
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)
        if process.is_alive():
            process.kill()
            kills += 1
            phases.add("evaluation" if runs.done(name) > 100 else "training")
        process.join()
        if process.exitcode == 0:  # it was finished before the kill came: the others go into another run
            names.append(f"{len(names)}")
    assert phases == {"training", "evaluation"}
    for name in names:
        runs.finish(name)
        found = content(runs.folder / "runs" / name)
        assert found.keys() == calm.keys()
        assert [key for key in calm if found[key] != calm[key]] == []
