"""Encoders that lack a sense, on rendered pictures: attribution names what each can and cannot see.

The real command trains on questions about colour, shape and place. One encoder sees grey pictures, whose objects are
all of one luminance; the other sees them with shuffled patches. So the truth is known: neither can be credited for what
it cannot see, and each must be credited for what the other cannot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_end_to_end import command

from experiments.world.renderer import LUMINANCE, render
from experiments.world.scene import COLOURS, SHAPES, Item, Scene

ENCODERS = Path(__file__).parent / "blind_encoders.py"
HUES = {
    "red": (213, 70, 118),
    "purple": (166, 78, 200),
    "blue": (71, 126, 200),
    "green": (23, 166, 118),
    "yellow": (70, 158, 36),
    "orange": (166, 110, 36),
}
"""Colours of one luminance, so that a grey picture holds nothing of them."""
PICTURES = {"train": 1200, "val": 60, "test": 300}
QUESTIONS = {"colour": "what color is the thing?", "shape": "what shape is the thing?", "position": "left or right?"}


def scene(rng: np.random.Generator) -> Scene:
    """One large plain thing, on the left or on the right."""
    x = float(rng.uniform(24, 48) if rng.integers(2) else rng.uniform(80, 104))
    shape, colour = SHAPES[rng.integers(len(SHAPES))], tuple(HUES)[rng.integers(len(HUES))]
    item = Item(shape=shape, colour=colour, texture="plain", size="large", x=x, y=float(rng.uniform(24, 104)))
    return Scene((item,), "fog", int(rng.integers(2**31)))


def write_pictures(folder: Path) -> Path:
    """A task of the kind `classification`: three questions a picture."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in PICTURES.items():
        records = []
        for number in range(count):
            one = scene(rng)
            image = f"{part}{number}.png"
            render(one).save(folder / "images" / image)
            thing = one.items[0]
            place = "left" if thing.x < 64 else "right"
            for factor, label in {"colour": thing.colour, "shape": thing.shape, "position": place}.items():
                told = {"id": f"{part}{number}{factor}", "image": image, "label": label, "slice_factor": factor}
                records.append({**told, "text": QUESTIONS[factor]})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("blind")
    with pytest.MonkeyPatch.context() as patch:
        for name, colour in HUES.items():
            patch.setitem(COLOURS, name, colour)
        write_pictures(home / "data" / "senses")
    encoders = [f"{name}=file:{ENCODERS}:{name}" for name in ("colour_blind", "position_blind")]
    asked = ["--preset", "tiny", "--controls", "none", "--run", "senses"]
    asked += ["--data", str(home / "data"), "--tasks", "senses=classification"]
    settings = ["train.steps=300", "train.batch_size=64", "train.groups=2"]
    done = command(home, *asked, "--encoders", *encoders, settings=settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return home / "runs" / "senses"


@pytest.fixture(scope="module")
def slices(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())["tasks"]["senses"]["slices"]["factor"]
    return found


def test_the_colours_are_of_one_luminance() -> None:
    assert np.ptp([np.dot(LUMINANCE, colour) for colour in HUES.values()]) < 1


@pytest.mark.parametrize(
    ("blind", "sighted", "factor"),
    [("colour_blind", "position_blind", "colour"), ("position_blind", "colour_blind", "position")],
)
def test_an_encoder_gets_nothing_for_what_it_cannot_see(
    slices: dict[str, Any], blind: str, sighted: str, factor: str
) -> None:
    found = slices[factor]
    low, high = found["shapley"][blind]["ci95"]
    assert low <= 0 <= high and high < 0.05
    assert found["shapley"][sighted]["ci95"][0] > 0.3
    alone = {tuple(entry["encoders"]): entry for entry in found["coalitions"]}
    low, high = alone[(blind,)]["ci95"]
    assert low <= found["empty"]["value"] <= high
    assert found["full"]["value"] > 0.9


def test_the_colour_blind_encoder_is_credited_for_shapes(slices: dict[str, Any]) -> None:
    assert slices["shape"]["shapley"]["colour_blind"]["ci95"][0] > 0.3
    assert slices["shape"]["leave_one_out"]["colour_blind"]["ci95"][0] > 0.3


def test_each_is_needed_and_the_report_says_for_what(run: Path, slices: dict[str, Any]) -> None:
    task = json.loads((run / "results.json").read_text())["tasks"]["senses"]
    assert {one["encoder"]: one["grade"] for one in task["verdict"]} == dict.fromkeys(
        ("colour_blind", "position_blind"), "suggestive"
    )
    assert task["gain_over_best_single"]["ci95"][0] > 0.1
    said = (run / "report.md").read_text(encoding="utf-8").replace("\\_", "_").splitlines()
    for blind, lacking in (("colour_blind", "colour"), ("position_blind", "position")):
        (line,) = [line for line in said if line.startswith(f"{blind}: the largest contribution shown is to factor = ")]
        _, nothing = line.split("; nothing is shown for ")
        assert lacking in nothing and "BH p" in line
        low, high = slices[lacking]["shapley"][blind]["ci95"]
        assert f"{100 * high:.1f}" in nothing and f"{-100 * low:.1f}" in nothing
