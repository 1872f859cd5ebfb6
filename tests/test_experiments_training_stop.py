"""A request to stop, as launchers hand it to processes: to one of them, or to all, and more than once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_training import Toy, same_weights
from training_processes import Launch

from experiments.model import TaskModel
from experiments.processes import ALONE
from experiments.training import interruption
from experiments.training.interruption import REPEATED, Interruption

SETTINGS = {"checkpoint_steps": None, "steps": 8, "validate_steps": 3, "log_steps": 1}


def asked_twice(folder: Path, told: tuple[str, ...]) -> None:
    """The processes that are told get two SIGTERM during the first validation, after step 3."""
    toy = Toy(folder, "gqa")

    def validate(model: TaskModel) -> dict[str, float]:
        for _ in range(2 if os.environ["RANK"] in told else 0):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return {"gqa": 0.5}

    toy.train("one", validate=validate, **SETTINGS)


@pytest.mark.parametrize("told", [("1",), ("0", "1")], ids=["one of them", "all"])
def test_processes_stop_together_after_the_step_and_write_a_checkpoint(tmp_path: Path, told: tuple[str, ...]) -> None:
    toy = Toy(tmp_path, "gqa")
    for outcome in Launch(asked_twice, tmp_path, told).results():
        assert isinstance(outcome, SystemExit) and outcome.code == 143
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["step-00000003"]
    _, again = toy.train("one", **SETTINGS)
    _, calm = toy.train("calm", **SETTINGS)
    assert [loss for _, loss in again["losses"]] == pytest.approx([loss for _, loss in calm["losses"]], rel=1e-5)


def test_one_process_that_is_told_twice_writes_a_checkpoint(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "gqa")
    (outcome,) = Launch(asked_twice, tmp_path, ("0",), count=1).results()
    assert isinstance(outcome, SystemExit) and outcome.code == 143
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["step-00000003"]
    assert same_weights(toy.train("one", **SETTINGS)[0], toy.train("calm", **SETTINGS)[0])


def test_a_later_request_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ended = [100.0], []
    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        with Interruption(ALONE) as found:
            assert not found.asked_of_any()
            for seconds in (0.0, 0.0, REPEATED):
                clock[0] += seconds
                signal.raise_signal(signal.SIGTERM)
                assert found.asked_of_any() and ended == []
            clock[0] += 0.1
            signal.raise_signal(signal.SIGTERM)
            assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
