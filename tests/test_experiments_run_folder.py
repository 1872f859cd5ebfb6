"""What goes on in a run folder, and what is refused there: a report never mixes answers to two different questions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_training import Toy, image_of

from encoders import load_encoder
from experiments.bank import FeatureBank
from experiments.config import RunConfig, override
from experiments.errors import ConfigError
from experiments.model import write_json
from experiments.presets import preset
from experiments.processes import ALONE
from experiments.run_folder import (
    begin_folder,
    inputs_of,
    other_inputs,
    other_settings,
    refuse_together,
    widened,
    with_images,
)


@pytest.fixture
def asked(tmp_path: Path) -> RunConfig:
    """Of two tasks with a model each, of which one of GQA is there."""
    made = replace(preset("tiny"), tasks=("gqa", "vqa"), runs=str(tmp_path), run="kept")
    write_json(made.folder / "config.json", made.to_dict())
    write_json(made.folder / "inputs.json", {})
    begin(made, "train/gqa-masked-0.checkpoints")
    return made


def refuse_other_settings(config: RunConfig, *, meanwhile: bool = False) -> None:
    refuse_together(ALONE, lambda: other_settings(config, meanwhile=meanwhile))


def refuse_other_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    refuse_together(ALONE, lambda: other_inputs(folder, inputs))


def begin(config: RunConfig, name: str) -> None:
    path = config.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    "settings",
    [
        ["train.checkpoint_steps=7", "train.trackers=[]", "evaluate.batch_size=8"],
        ["device=cpu", "data=elsewhere", "images.gqa=there", "exclude=list.txt", "preset=other"],
        ["seeds=[0,1]", "controls=full", "coalitions=both", "control_checkpoints.vit=[\"demo:vit\"]"],
        ['tasks=["gqa","vqa","snli_ve"]', "train.per_task.snli_ve.lr=1e-3", "task_options.snli_ve.x=1"],
        ["train.per_task.vqa.accumulate=2", "task_options.vqa.min_count=3"],
        ['evaluate.removals=["zero"]'],
    ],
)
def test_a_folder_takes_what_leaves_its_answers_as_they_are(asked: RunConfig, settings: list[str]) -> None:
    changed = override(asked, settings)
    assert changed != asked and other_settings(changed) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["train.lr=0.001"], r"train\.lr: 0\.0005 → 0\.001\)"),
        (["fusion.operator=late", "train.ema=0.9"], r'fusion\.operator: "concat" → "late"; train\.ema: not set → 0\.9'),
        (["train.per_task.gqa.accumulate=2"], r"train\.per_task\.gqa\.accumulate: not set → 2"),
        (["seeds=[1,0]"], r"seeds: \[0\] → \[1, 0\]"),
        (['tasks=["vqa","gqa"]'], r'tasks: \["gqa", "vqa"\] → \["vqa", "gqa"\]'),
        (["controls=none"], r'controls: "cheap" → "none"'),
        (["encoders.vit=demo:vit?pool=2x2"], r'encoders: \["vit=demo:vit".* → \["vit=demo:vit\?pool=2x2"'),
        (["train.joint=true"], r"train\.joint: false → true"),
        ([f"train.{k}=2" for k in ("groups", "accumulate", "bucket", "fill_images", "clip_norm")], "; and 1 more"),
    ],
)
def test_what_would_have_changed_its_answers_is_refused_with_both_values(
    asked: RunConfig, settings: list[str], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"holds a run with other settings.*{named}.*name another with --run"):
        refuse_other_settings(override(asked, settings))


def test_the_order_of_encoders_is_a_setting(asked: RunConfig) -> None:
    turned = replace(asked, encoders=dict(reversed(asked.encoders.items())))
    with pytest.raises(ConfigError, match="encoders: "):
        refuse_other_settings(turned)


def test_until_a_model_is_begun_everything_may_change(asked: RunConfig) -> None:
    (asked.folder / "train" / "gqa-masked-0.checkpoints").unlink()
    begin(asked, "train/trackers")
    other = override(asked, ["train.lr=0.001", "fusion.width=64", 'tasks=["vqa"]'])
    refuse_other_settings(other)
    with pytest.raises(ConfigError, match=r"train\.lr"):  # but not under a command that is under way
        refuse_other_settings(other, meanwhile=True)
    begin(asked, "answers/gqa.0.masked.drop.vit.parquet")
    with pytest.raises(ConfigError, match=r"train\.lr"):
        refuse_other_settings(other)


def test_a_command_under_way_bears_what_another_one_adds(asked: RunConfig) -> None:
    more = override(asked, ["seeds=[0,1]", 'tasks=["gqa","vqa","coco"]', "task_options.coco.x=1", "controls=full"])
    refuse_other_settings(more)
    write_json(asked.folder / "config.json", more.to_dict())
    refuse_other_settings(asked, meanwhile=True)
    assert widened(asked) == ["tasks", "seeds", "controls"] and widened(more) == []
    checkpoints = override(more, ['control_checkpoints.vit=["demo:vit?pool=2x2"]'])
    write_json(asked.folder / "config.json", checkpoints.to_dict())
    refuse_other_settings(asked, meanwhile=True)  # it has no control that reads them
    with pytest.raises(ConfigError, match=r"control_checkpoints\.vit: .* → not set"):
        refuse_other_settings(more, meanwhile=True)
    with pytest.raises(ConfigError, match=r"seeds: \[0, 1\] → \[0\]"):
        refuse_other_settings(asked)


def test_checkpoints_of_other_seeds_are_bound_by_models_made_of_them(asked: RunConfig) -> None:
    other = override(asked, ["controls=full", 'control_checkpoints.vit=["demo:vit?pool=2x2"]'])
    refuse_other_settings(other)
    begin(asked, "train/gqa-seeds-vit-0.json")
    with pytest.raises(ConfigError, match=r"control_checkpoints\.vit: not set → "):
        refuse_other_settings(other)


def test_a_task_whose_name_begins_another_s(asked: RunConfig) -> None:
    longer = override(asked, ['tasks=["gqa","gqa-hard"]'])
    write_json(asked.folder / "config.json", longer.to_dict())
    (asked.folder / "train" / "gqa-masked-0.checkpoints").unlink()
    begin(asked, "train/gqa-hard-masked-0.json")
    refuse_other_settings(override(longer, ["train.per_task.gqa.lr=1e-3"]))
    with pytest.raises(ConfigError, match=r"train\.per_task\.gqa-hard\.lr"):
        refuse_other_settings(override(longer, ["train.per_task.gqa-hard.lr=1e-3"]))


def test_a_joint_model_is_of_all_its_tasks(asked: RunConfig) -> None:
    joint = override(asked, ["train.joint=true"])
    write_json(joint.folder / "config.json", joint.to_dict())
    begin(joint, "train/joint-masked-0.checkpoints")
    with pytest.raises(ConfigError, match=r"\(tasks: "):
        refuse_other_settings(override(joint, ['tasks=["gqa","vqa","coco"]']))


def test_settings_of_an_older_version_are_those_it_had(asked: RunConfig) -> None:
    values = asked.to_dict()
    del values["train"]["trials"], values["exclude"]
    write_json(asked.folder / "config.json", values)
    refuse_other_settings(asked)
    with pytest.raises(ConfigError, match=r"train\.trials: 1 → 3"):
        refuse_other_settings(override(asked, ["train.trials=3"]))
    (asked.folder / "inputs.json").unlink()  # nothing vouches for what lies elsewhere
    with pytest.raises(ConfigError, match=r"data: not set → .elsewhere"):
        refuse_other_settings(override(asked, ["data=elsewhere"]))
    fusion = {**values["fusion"], "gone": 1}
    write_json(asked.folder / "config.json", values | {"fusion": fusion})
    with pytest.raises(ConfigError, match="of another version of this program .*gone"):
        refuse_other_settings(asked)
    write_json(asked.folder / "config.json", values | {"gone": 1})
    with pytest.raises(ConfigError, match="of another version of this program .unknown setting 'gone'"):
        refuse_other_settings(asked)


def test_what_names_stand_for_may_not_change_either(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "gqa", "flickr30k")
    words = tmp_path / "words.json"
    words.write_text("[]")
    options: dict[str, Any] = {"flickr30k": {"vocabulary_file": str(words), "match_share": 0.5, "negatives": "hard"}}
    config = replace(toy.config(joint=False), task_options=options)
    encoders = {"vit": load_encoder("vit=demo:vit")}
    inputs = inputs_of(config, toy.data, encoders)
    assert {key: set(table) for key, table in inputs["tasks"].items()} == {
        "gqa": {"train split", "select split", "test split"},
        "flickr30k": {"train split", "select split", "test split", "words.json"},
    }
    inputs = with_images(inputs, toy.data, toy.bank)
    assert set(inputs["tasks"]["gqa"]) == {"train split", "select split", "test split", "images"}
    assert begin_folder(config, toy.data, inputs)["gqa"] == {"train": [], "select": [], "test": []}
    assert json.loads((config.folder / "inputs.json").read_text()) == inputs
    words.write_text("[1]")
    fewer = toy.data["gqa"].without(["1.jpg"])
    other = inputs_of(config, {**toy.data, "gqa": fewer}, {"vit": load_encoder("vit=demo:vit?pool=2x2")})
    refuse_other_inputs(config.folder, other)  # nothing is begun
    begin(config, "train/flickr30k-masked-0.json")
    same_encoder = other | {"encoders": inputs["encoders"]}
    with pytest.raises(ConfigError, match=r"encoder vit is no longer the one that .*: name another with --run"):
        refuse_other_inputs(config.folder, other)
    with pytest.raises(ConfigError, match=r"task flickr30k is no longer .* \(words.json changed\)"):
        refuse_other_inputs(config.folder, same_encoder)
    words.write_text("[]")
    gqa_alone = inputs_of(config, {**toy.data, "gqa": fewer}, encoders)
    refuse_other_inputs(config.folder, gqa_alone)
    begin(config, "answers/gqa.0.masked.drop.vit.parquet")
    other_trunk = inputs_of(replace(config, fusion=replace(config.fusion, text="demo", width=128, heads=4)), {}, {})
    with pytest.raises(ConfigError, match="the text trunk is no longer the one that"):
        refuse_other_inputs(config.folder, other_trunk)
    digests = {(task, image): toy.bank.digest(task, image) for task in toy.data for image in map(image_of, range(40))}
    digests["gqa", "3.jpg"] = digests["gqa", "4.jpg"]
    repainted = with_images(inputs, toy.data, FeatureBank({}, digests))
    with pytest.raises(ConfigError, match=r"task gqa is no longer .* \(images changed\)"):
        refuse_other_inputs(config.folder, repainted)
    extra = [replace(one, extra={"weights": [1]}) for one in toy.data["gqa"].splits["train"].examples]
    train = replace(toy.data["gqa"].splits["train"], examples=extra)
    labelled = replace(toy.data["gqa"], splits={**toy.data["gqa"].splits, "train": train})
    with pytest.raises(ConfigError, match=r"task gqa is no longer .* \(train split changed\)"):
        refuse_other_inputs(config.folder, inputs_of(config, {"gqa": labelled}, encoders))
    with pytest.raises(ConfigError, match=r"task gqa is .* \(train split, select split, test split changed\)"):
        refuse_other_inputs(config.folder, gqa_alone)
