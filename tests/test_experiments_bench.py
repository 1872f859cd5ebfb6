"""The benchmarks run, at a small size: what they promise is measured by `python -m experiments.bench`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from encoders_folders import timm_folder

from encoders import load_encoder
from experiments.bench import PARTS, Figure, main
from experiments.bench_analysis import resampling_seconds, shapley_seconds
from experiments.bench_extract import error_of_bf16, extract_figures, textured
from experiments.bench_model import Bench, Shape
from experiments.bench_rate import SIDE
from experiments.bench_store import open_figures, read_figures
from experiments.bench_train import figures, size_chances


def test_every_part_of_the_table_exists() -> None:
    for target in PARTS.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_a_line_says_what_is_promised() -> None:
    assert Figure("a ÷ b", 0.9, wanted=0.8).line() == "       0.900 ×     a ÷ b  (at least 0.8)"
    assert Figure("opening", 2, "ms").line() == "       2.000 ms    opening"


def test_the_store_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.bench_store.MILLION", 3000)
    figures = read_figures(tmp_path / "read", count=130, tokens=17, width=16, rounds=1, wanted=0.8)
    figures += open_figures(tmp_path / "open")
    assert len(figures) == 10 and all(figure.value > 0 for figure in figures)
    assert "opening 10⁶ entries in 3 parts" in figures[6].what


def test_extraction_is_measured(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    paths = textured(tmp_path / "images", 64)
    encoder = load_encoder(f"half=timm:{tmp_path}/vit?dtype=bf16")
    figures = extract_figures(tmp_path, encoder, paths, rounds=1)
    assert [figure.wanted for figure in figures] == [0.95, None, None, None, None]
    assert figures[0].what.startswith("half: ")
    assert all(figure.value > 0 for figure in figures[:4]) and figures[4].unit == "MiB"
    assert 1e-4 < error_of_bf16(tmp_path, paths) < 2e-2


def test_encoders_named_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm_folder(tmp_path / "vit")
    both = [f"{alias}=timm:{tmp_path}/vit?dtype={alias}" for alias in ("fp16", "bf16")]
    assert main(["extract", "--encoders", *both, "--images", "64", "--rounds", "1", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == 5 * ["fp16:"] + 5 * ["bf16:"]
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]
    assert main(["extract", "--encoders", f"vit=timm:{tmp_path}/vot"]) == 1
    assert "did you mean" in capsys.readouterr().err
    assert main(["extract", "--encoders", f"vit=timm:{tmp_path}/vit?views=2"]) == 1
    assert "that is not what vit takes" in capsys.readouterr().err


def test_training_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.bench_train.STEPS", 3)
    monkeypatch.setitem(SIDE, "cpu", 256)
    shape = Shape(batch=4, encoders=2, tokens=4, text=5, width=16, layers=1, heads=2)
    assert str(shape) == "B=4, L=13=2×4+5, W=16, 1 layers"
    found = figures(Bench(tmp_path / "main", shape, images=12), rounds=1, plot=tmp_path / "steps.svg")
    assert [figure.most for figure in found[:10:2]] == [1.1, 1.0, 0.7, 0.6, 1.25] and len(found) == 17
    assert all(figure.value > 0 and "B=4" in figure.what for figure in found[:10:2])
    assert found[15].unit == "ktok/s" and 0 < found[16].value < 1
    # Of two encoders at 0.5: none 1/4, one 1/2, both 1/4; where none is left, one stays.
    assert size_chances(2, rate=0.5, empty=0.2) == pytest.approx([0.2, 0.6, 0.2])
    assert (tmp_path / "steps.svg").read_text().count("encoders") >= 2
    assert Figure("a ÷ b", 1.2, most=1.1).line() == "       1.200 ×     a ÷ b  (at most 1.1)"


def test_statistics_are_measured_against_captum() -> None:
    theirs, mine, error = shapley_seconds(3, rounds=1)
    assert theirs > mine and error < 1e-5
    assert resampling_seconds(num_examples=200, num_resamples=50) > 0


def test_bad_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "--images", "2"]) == 1
    assert "--images at least 64" in capsys.readouterr().err
    assert main(["store", "--plot", "a.svg"]) == 1
    assert "--plot is for the part train, not store" in capsys.readouterr().err
    assert main(["train", "--encoders", "vit=demo:vit"]) == 1
    assert "--encoders is for the part extract, not train" in capsys.readouterr().err
