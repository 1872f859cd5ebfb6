"""Which models a run trains, and what the controls' models read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from encoders import load_encoder
from encoders.base import Encoder
from experiments.bank import Source
from experiments.checks import check
from experiments.config import RunConfig
from experiments.errors import ConfigError
from experiments.jobs import CONTROLS, control_jobs, first_jobs, for_inputs
from experiments.parameters import TOLERANCE, matching_ratio, trainable
from experiments.presets import demo
from experiments.streams import Streams, duplicate, matched, seeds
from fusion.config import FusionConfig

GALLERIES = {"flickr30k": True, "gqa": False}


def config(**changes: object) -> RunConfig:
    made = replace(demo(), tasks=("flickr30k", "gqa"), encoders={"vit": "demo:vit", "dino": "demo:dino"})
    return replace(made, **changes)  # type: ignore[arg-type]


def load(spec: str) -> Encoder:
    return load_encoder(f"one={spec}")


@pytest.mark.parametrize(
    ("changes", "stems"),
    [
        ({"controls": "none"}, ["joint-masked-0"]),
        ({"controls": "cheap"}, ["joint-masked-0", "joint-blind-0"]),
        (
            {"controls": "full"},
            ["joint-masked-0", "joint-blind-0", "joint-retrained-vit-0", "joint-retrained-dino-0"],
        ),
        (
            {"controls": "none", "coalitions": "both"},
            ["joint-masked-0", "joint-retrained-vit-0", "joint-retrained-dino-0", "joint-retrained-vit+dino-0"],
        ),
        (
            {"controls": "cheap", "coalitions": "retrained"},
            [f"joint-retrained-{name}-0" for name in ("none", "vit", "dino", "vit+dino")],
        ),
    ],
)
def test_models_of_a_joint_run(changes: dict[str, object], stems: list[str]) -> None:
    jobs = first_jobs(config(**changes), galleries=GALLERIES)
    assert [job.stem for job in jobs] == stems
    for job in jobs:
        blind = job.kind == "blind" or not job.of
        assert tuple(job.sources) == (job.of if job.kind == "retrained" and job.of else ("vit", "dino"))
        assert job.inputs == ("none" if blind else "vary" if job.kind == "masked" else "fixed")
        assert job.shown == (() if blind else tuple(job.sources))
        assert job.tasks == job.answers == (("gqa",) if blind else ("flickr30k", "gqa"))
    assert [job.of for job in jobs if job.leads] == [("vit", "dino")]  # one alone is asked what is asked of all


def test_models_of_a_run_with_a_model_per_task_and_seed() -> None:
    apart = config(seeds=(3, 5), train=replace(demo().train, joint=False))
    assert [job.stem for job in first_jobs(apart, galleries=GALLERIES)] == [
        "flickr30k-masked-3",
        "gqa-masked-3",
        "gqa-blind-3",
        "flickr30k-masked-5",
        "gqa-masked-5",
        "gqa-blind-5",
    ]


def test_controls_are_made_of_each_tasks_best_encoder() -> None:
    streams = {(kind, alias): duplicate(alias, count=2) for kind in CONTROLS for alias in ("vit", "dino")}
    del streams["matched", "dino"]
    jobs = control_jobs(config(), best={"flickr30k": "vit", "gqa": "dino"}, streams=streams)
    assert [(job.stem, job.answers) for job in jobs] == [
        ("joint-duplicate-vit-0", ("flickr30k",)),
        ("joint-seeds-vit-0", ("flickr30k",)),
        ("joint-matched-vit-0", ("flickr30k",)),
        ("joint-duplicate-dino-0", ("gqa",)),
        ("joint-seeds-dino-0", ("gqa",)),
    ]
    assert all(job.tasks == ("flickr30k", "gqa") for job in jobs)  # trained alike, on both
    same = control_jobs(config(), best=dict.fromkeys(GALLERIES, "vit"), streams=streams)
    assert [job.answers for job in same] == [("flickr30k", "gqa")] * 3


def test_what_is_said_of_encoders_is_said_of_inputs() -> None:
    train = replace(
        demo().train,
        ve_dropout={"vit": 0.1, "dino": 0.2},
        freeze=("text", "adapters.dino"),
        per_task={"gqa": {"ve_dropout": {"vit": 0.3, "dino": 0.4}}},
    )
    run = config(train=train, controls="full")
    jobs = {job.stem: job for job in first_jobs(run, galleries=GALLERIES)}
    alone = for_inputs(run, jobs["joint-retrained-vit-0"]).train
    assert (alone.ve_dropout, alone.empty, alone.freeze) == (0.0, 0.0, ("text",))
    assert alone.per_task == {"gqa": {"ve_dropout": 0.0, "empty": 0.0}}
    text = first_jobs(replace(run, coalitions="retrained"), galleries=GALLERIES)[0]
    none = for_inputs(run, text).train
    assert (text.of, none.ve_dropout, none.empty, none.ve_warmup, none.fill) == ((), 0.0, 1.0, 0.0, "drop")
    assert none.steps == run.train.steps  # as the models of other coalitions, which the blind control is not
    streams = {("duplicate", "dino"): duplicate("dino", count=2)}
    (twice,) = control_jobs(run, best=dict.fromkeys(GALLERIES, "dino"), streams=streams)  # type: ignore[arg-type]
    found = for_inputs(run, twice).train
    assert found.ve_dropout == {"dino_1": 0.1, "dino_2": 0.2}
    assert found.freeze == ("text", "adapters.dino_2")
    assert found.per_task == {"gqa": {"ve_dropout": {"dino_1": 0.3, "dino_2": 0.4}}}
    assert for_inputs(run, jobs["joint-masked-0"]).train == train


def test_controls_of_retrained_coalitions_see_all_their_inputs() -> None:
    streams = {("duplicate", "dino"): duplicate("dino", count=2)}
    for coalitions, inputs in (("both", "vary"), ("retrained", "fixed")):
        made = config(controls="full", coalitions=coalitions)
        (twice,) = control_jobs(made, best=dict.fromkeys(GALLERIES, "dino"), streams=streams)  # type: ignore[arg-type]
        assert twice.inputs == inputs


def test_removals_need_a_masked_model() -> None:
    evaluate = replace(demo().evaluate, removals=("zero",))
    with pytest.raises(ConfigError, match="nearest: coalitions=both"):
        check(config(coalitions="retrained", evaluate=evaluate))


def test_duplicates_read_the_same_features() -> None:
    assert duplicate("vit", count=2) == Streams({"vit_1": Source("vit"), "vit_2": Source("vit")})


def test_seeds_are_checkpoints_or_else_views() -> None:
    named = ("demo:vit?pool=2x2", "demo:vit?pool=1x1", "demo:vit?pool=8x8")
    found = seeds("vit", "demo:vit", count=3, checkpoints=named, load=load)
    assert found == Streams(
        {name: Source(name) for name in ("vit_1", "vit_2", "vit_3")},
        {"vit_1": "demo:vit", "vit_2": named[0], "vit_3": named[1]},
    )
    views = seeds("vit", "demo:vit?pool=2x2", count=3, checkpoints=(), load=load)
    assert views == Streams(
        {f"vit_{k + 1}": Source("vit", view=k) for k in range(3)}, {"vit": "demo:vit?pool=2x2&views=3"}
    )
    few = seeds("vit", "demo:vit", count=4, checkpoints=named[:1], load=load)
    assert few == "3 other checkpoints of vit are needed, 1 are named"


@pytest.mark.parametrize(
    ("spec", "num_tokens", "finer", "found"),
    [
        ("demo:vit", 67, "demo:vit?pool=8x8", 65),  # less pooling
        ("demo:convnext", 67, "demo:convnext?size=128x128&pool=8x8", 64),  # a larger input
        ("demo:vit?pool=8x8", 260, "demo:vit?pool=16x16&size=128x128", 257),
    ],
)
def test_matched_tokens_are_those_of_a_finer_grid(spec: str, num_tokens: int, finer: str, found: int) -> None:
    made = matched("vit", spec, count=4, num_tokens=num_tokens, load=load)
    assert isinstance(made, Streams)
    assert made.encoders == {"vit": finer}
    assert made.sources == {f"vit_{k + 1}": Source("vit", part=k, parts=4) for k in range(4)}
    assert load(finer).num_tokens == found


WIDE, NARROW = {"a": 512, "b": 64}, {"a_1": 64, "a_2": 64}


@pytest.mark.parametrize("operator", ["concat", "resampler", "late"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_matched_model_has_the_parameters_of_the_run(operator: str, swapped: bool) -> None:
    widths, own_widths = (NARROW, WIDE) if swapped else (WIDE, NARROW)
    fusion = FusionConfig(text="scratch", width=32, layers=6, heads=2, operator=operator)
    run = config(fusion=fusion)
    wanted, before = (trainable(run, ("gqa",), each) for each in (widths, own_widths))
    assert abs(before - wanted) > TOLERANCE * wanted
    ratio = matching_ratio(run, widths, run, own_widths, ("gqa",))
    assert not isinstance(ratio, str)
    found = trainable(config(fusion=replace(fusion, mlp_ratio=ratio)), ("gqa",), own_widths)
    assert abs(found - wanted) <= TOLERANCE * wanted and (ratio * 32) % 8 == 0
    assert matching_ratio(run, widths, run, widths, ("gqa",)) == fusion.mlp_ratio


@pytest.mark.parametrize(
    ("text", "widths", "said"),
    [
        ("demo", ({"a": 20000, "b": 64}, NARROW), "text='demo' cannot be made wider"),
        ("scratch", (NARROW, {"a_1": 20000, "a_2": 20000}), "no trunk is so narrow"),
    ],
)
def test_a_trunk_that_cannot_be_of_that_width_is_said(
    text: str, widths: tuple[dict[str, int], dict[str, int]], said: str
) -> None:
    run = config(fusion=replace(demo().fusion, text=text))
    why = matching_ratio(run, widths[0], run, widths[1], ("gqa",))
    assert isinstance(why, str) and "trainable parameters differ by" in why and said in why


def test_a_job_of_another_trunk_has_it_in_its_configuration() -> None:
    streams = {("matched", "vit"): Streams({"vit_1": Source("vit"), "vit_2": Source("vit")}, mlp_ratio=5.25)}
    (job,) = control_jobs(config(tasks=("gqa",)), best={"gqa": "vit"}, streams=streams)
    assert for_inputs(config(), job).fusion == replace(config().fusion, mlp_ratio=5.25)


def test_no_grid_that_is_fine_enough_is_said() -> None:
    why = matched("vit", "demo:vit?pool=8x8", count=4, num_tokens=4000, load=load)
    assert isinstance(why, str) and "4000 tokens within 5%" in why


def test_an_encoder_with_options_of_its_own_gets_a_finer_grid(tmp_path: Path) -> None:
    (tmp_path / "tinted.py").write_text(TINTED)
    made = matched("own", f"file:{tmp_path / 'tinted.py'}?tint=warm&pool=4x4", count=2, num_tokens=64, load=load)
    assert isinstance(made, Streams)
    assert made.encoders == {"own": f"file:{tmp_path / 'tinted.py'}?tint=warm&pool=8x8"}


TINTED = '''
from encoders import load_encoder as load

def load_encoder(spec, *, device):
    assert spec.options["tint"] == "warm"
    side = spec.options["pool"]
    return load(f"{spec.alias}=demo:vit?pool={side}&prefix=drop", device=device)
'''
