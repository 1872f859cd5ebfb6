"""What models are validated on while they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_training import NUM_IMAGES, Toy, examples

from experiments.data import TaskData
from experiments.errors import ConfigError
from experiments.training.settings import TrainConfig
from experiments.training.validation import validation_part
from experiments.workshop import Workshop
from tasks import load_task
from tasks.base import Example, Split


def data(name: str, rows: list[Example]) -> TaskData:
    split = Split(examples=rows, image_root=Path("."), name="select", official="dev")
    return TaskData(load_task(name), {"train": split, "select": split, "test": split})


def drawn(item: TaskData, count: int | None) -> list[Example]:
    return validation_part(item, TrainConfig(validate_examples=count)).splits["select"].examples


def memes(labels: str) -> list[Example]:
    return [Example(str(k), f"{k}.png", "a joke", label) for k, label in enumerate(labels)]


def test_images_are_drawn_at_random_with_all_their_examples() -> None:
    rows = [Example(str(k), f"{k // 3}.jpg", "what?", "yes") for k in range(300)]
    item = data("gqa", rows)
    chosen = drawn(item, 90)
    images = list(dict.fromkeys(example.image for example in chosen))
    assert len(chosen) == 90 and len(images) == 30 and chosen == drawn(item, 90)
    assert chosen == sorted(chosen, key=lambda example: int(example.id))
    numbers = [int(image.removesuffix(".jpg")) for image in images]
    assert min(numbers) < 15 and max(numbers) >= 85  # all 30 in 15 to 99 or in 0 to 84: 1 in 200 each
    assert {example.image for example in drawn(item, 91)} > set(images) and len(drawn(item, 91)) == 91
    assert drawn(item, None) == drawn(item, 1000) == rows
    assert item.splits["select"].examples == rows


def test_a_gallery_is_ranked_whole() -> None:
    assert len(drawn(data("flickr30k", examples("flickr30k")), 3)) == NUM_IMAGES


def test_a_split_that_is_sorted_by_label_can_be_validated_on() -> None:
    found = drawn(data("hateful_memes", memes("0" * 500 + "1" * 100)), 400)
    assert len(found) == 400 and {example.target for example in found} == {"0", "1"}


def test_a_part_without_a_metric_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        drawn(data("hateful_memes", memes("01")), 1)
    said = str(caught.value)
    assert said.startswith("train.validate_examples=1 draws a part of the select split of hateful_memes (dev, 2 ex")
    assert "needs both classes" in said and said.endswith("nearest that has: null, for all of it")
    toy = Toy(tmp_path, "gqa")
    one = {"hateful_memes": data("hateful_memes", memes("000"))}
    with pytest.raises(ConfigError, match=r"select split of hateful_memes \(dev, 3 examples\) has no auroc"):
        Workshop(toy.config(), one, {}, toy.bank, toy.accelerator, {})


def test_a_model_is_validated_on_that_part_and_says_so(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "gqa", "flickr30k")
    made = toy.workshop(validate_examples=7)
    made.model_of(toy.job(), toy.bank)
    record = json.loads((made.config.folder / "train" / f"{toy.job().stem}.json").read_text())
    assert record["validated_on"] == {"gqa": 7, "flickr30k": NUM_IMAGES}
    scores = [7 * found["gqa"] for _, found in record["select"]]
    assert len(scores) == 4 and scores == pytest.approx([round(score) for score in scores])
