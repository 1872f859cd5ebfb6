"""What a run is said to take before it starts: counts worked out by hand, a clock that is made up, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import trial
from experiments.combine import main, run, say_estimate
from experiments.config import RunConfig
from experiments.forecast import duration, forecast_lines, seen_tokens, speed_of
from experiments.jobs import first_jobs
from experiments.presets import preset
from experiments.share import Share
from experiments.trial import Line, seconds_each
from experiments.world.build import build_world

TOKENS = {"vit": 10, "clip": 20}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    build_world(home / "data", seed=2, scale=0.01)
    return home


def config(home: Path, **changes: object) -> RunConfig:
    made = preset("tiny")
    train = replace(made.train, joint=False, steps=4, blind_steps=2, batch_size=12, validate_steps=2)
    places = {"data": str(home / "data"), "cache": str(home / "cache"), "runs": str(home / "runs"), "run": "one"}
    encoders = {"vit": "demo:vit", "clip": "demo:clip"}
    tasks = ("gqa", "flickr30k")
    evaluate = replace(made.evaluate, batch_size=32)
    made = replace(made, tasks=tasks, encoders=encoders, train=train, evaluate=evaluate, device="cpu")
    made = replace(made, **places)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Models, steps, passes, and cells of each row."""
    table = lines[lines.index("models and cells") + 2 :]
    split = [line.split("  ") for line in table if line.startswith("  ") and ": " in line]
    return {cells[0]: cells[1:5] for cells in ([cell.strip() for cell in row if cell.strip()] for row in split)}


def test_a_line_through_two_measurements() -> None:
    line = Line.through((10, 0.3), (30, 0.7))  # 20 tokens more take 0.4 s more
    assert (line.fixed, line.per_token) == pytest.approx((0.1, 0.02))
    assert line.at(0) == pytest.approx(0.1) and line.at(50) == pytest.approx(1.1)
    assert Line.through((10, 0.3), (30, 0.2)) == Line(0.2, 0.0)  # more tokens never take less
    assert Line.through((10, 0.3)) == Line(0.3, 0.0)


@pytest.mark.parametrize(
    ("fixed", "most", "each"),
    [
        (1.0, 6, (1.0 + 6 * 0.5) / 6),  # 4 examples take 3 s, so 6 would take 4.5: measured
        (1.0, 100, 3.0 / 4),  # 100 would take 75 s: not measured
        (1.0, 4, 3.0 / 4),
        (1.0, 2, (1.0 + 2 * 0.5) / 2),
    ],
)
def test_a_long_batch_is_not_tried(monkeypatch: pytest.MonkeyPatch, fixed: float, most: int, each: float) -> None:
    clock = [0.0]
    monkeypatch.setattr(trial, "_now", lambda: clock[0])

    def make(count: int) -> Callable[[], None]:
        first = [7.0]  # the first call takes longer, and does not count

        def work() -> None:
            clock[0] += fixed + 0.5 * count + (first.pop() if first else 0.0)

        return work

    assert seconds_each(make, most=most) == pytest.approx(each)


def test_tokens_that_a_training_example_sees(home: Path) -> None:
    here = config(home, coalitions="both")
    galleries = {"gqa": False, "flickr30k": True}
    jobs = {job.stem: job for job in first_jobs(here, galleries=galleries)}
    masked = jobs["gqa-masked-0"]
    # Both with 1/4, else one of the two: 30 / 4 + 15 x 3 / 4 = 18.75; 16.9 where a tenth sees none.
    assert seen_tokens(masked, here.train, TOKENS, empty="draw") == pytest.approx(16.9, rel=0.1)
    assert seen_tokens(masked, here.train, TOKENS, empty="never") == pytest.approx(18.75, rel=0.1)
    assert seen_tokens(masked, replace(here.train, fill="zero"), TOKENS, empty="draw") == 30
    assert seen_tokens(jobs["gqa-blind-0"], here.train, TOKENS, empty="draw") == 0
    assert seen_tokens(jobs["gqa-retrained-clip-0"], here.train, {"clip": 20}, empty="draw") == 20


def test_durations_are_in_the_unit_that_suits_them() -> None:
    assert [duration(seconds) for seconds in (0.34, 59.0, 90.0, 5400.0)] == ["0.3 s", "59.0 s", "1.5 min", "1.5 h"]


def test_models_and_cells_are_those_of_the_run(home: Path) -> None:
    lines = forecast_lines(config(home, seeds=(0, 1)))
    assert not (home / "runs").exists() and not (home / "cache").exists()
    assert lines[0] == "features" and "0 images stored already" in "".join(lines)
    assert any(line.startswith("passes: ") and "through 2 encoders or views" in line for line in lines)
    found = rows(lines)
    # gqa: 4 coalitions, 3 on validation, shuffled; flickr30k: 3, 3, shuffled, reranked; each for two seeds.
    assert {name: (row[0], row[1]) for name, row in found.items()} == {
        "flickr30k: masked": ("2", "4"),
        "gqa: blind": ("2", "2"),
        "gqa: masked": ("2", "4"),
    }
    assert f"  {2 * (4 + 3 + 1)}  " in next(line for line in lines if line.startswith("  gqa: masked"))
    assert f"  {2 * (3 + 3 + 1 + 1)}  " in next(line for line in lines if line.startswith("  flickr30k: masked"))
    assert "h for one process, an estimate" in lines[-1]


def test_controls_and_retrained_coalitions_are_counted(home: Path) -> None:
    lines = forecast_lines(config(home, tasks=("gqa",), controls="full", coalitions="retrained"), processes=2)
    assert {name: row[0] for name, row in rows(lines).items()} == {
        "gqa: retrained of 0": "1",
        "gqa: retrained of 1": "2",
        "gqa: retrained of 2": "1",
        "gqa: duplicate": "1",
        "gqa: seeds": "1",
    }
    said = "\n".join(lines)
    assert "h for 2 processes like this one" in said and "counted as if that were vit" in said
    assert "control matched of vit is not run" in said  # for two encoders no grid comes near enough
    assert "vit of seeds" in said and "through 4 encoders or views" in said  # two views beside the run's two


def test_what_is_there_already_is_not_counted_again(home: Path) -> None:
    here = config(home, tasks=("gqa",))
    run(here, say=lambda line: None)
    lines: list[str] = []
    say_estimate(here, Share(), say=lines.append)
    assert rows(lines) == {} and lines[-1] == "  2 models are there already and not counted"
    lines.clear()
    say_estimate(replace(here, seeds=(0, 1), run="two"), Share(1, 2, patient=True), say=lines.append)
    assert lines == []  # of processes that were launched together the first one says it
    assert not (home / "runs" / "two").exists()


def test_an_estimate_refuses_what_a_run_refuses(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--estimate", "--device", "cpu", "--data", str(home / "nowhere")]) == 1
    assert capsys.readouterr().err.strip() == f"error: --data {home / 'nowhere'} is not a folder"


@pytest.mark.parametrize(
    ("processes", "here", "on_gpu", "speed"),
    [(1, 1, False, 1), (16, 1, False, 16), (2, 2, False, 2), (4, 4, False, 2), (8, 4, False, 4), (16, 8, True, 16)],
)
def test_processes_on_one_machine_share_its_cores(
    processes: int, here: int, on_gpu: bool, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four cores, of which the one that was measured used two."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert speed_of(processes, here=here, on_gpu=on_gpu) == speed
