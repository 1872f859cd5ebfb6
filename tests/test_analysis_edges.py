"""Where there is little to count, or nothing: what a number says then, and what it must not be made to say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_worlds import add, drawn, finished, name, table
from schemas import validate
from scipy.stats import binom
from synthetic_run import write_run

from analysis.bootstrap import Resampler
from analysis.coalition_values import all_coalitions
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.evidence_tables import control_table
from analysis.leaves import SHARE, UNMOVED, leaf, not_run
from analysis.metric_values import MeanStatistic
from analysis.overlap import drawn_shares, overlap_quantities
from analysis.removals import disagreements
from analysis.report import write_report
from analysis.results import assemble
from analysis.shares import Influence
from analysis.similarity import cka_leaf
from analysis.verdict import ACTIONS, MISSED, UNCOMPARED, UNLEARNED, UNSHOWN, _action, _not_all
from analysis.words import verdict_sentence


def with_column(path: Path, column: str, values: list[str]) -> None:
    content = pq.read_table(path)
    pq.write_table(content.set_column(content.column_names.index(column), column, pa.array(values)), path)


def shares(wrong: list[int], *, n: int, resamples: int = 400) -> Draws:
    """How often models with so many wrong answers to n examples, one an image, are wrong; a model a seed."""
    resampler = Resampler("edges", num_clusters=n, num_resamples=resamples, seed=0)
    statistics = [MeanStatistic((np.arange(n) < count)[:, None].astype(float), np.ones(n)) for count in wrong]
    return resampler.draw(statistics, influence=Influence.of(np.arange(n), num_clusters=n))


@pytest.mark.parametrize(("n", "truth"), [(50, 0.03), (100, 0.02), (300, 0.011), (1000, 0.011), (1000, 0.03)])
def test_few_examples_that_differ_do_not_promise_that_none_would(n: int, truth: float) -> None:
    """The interval misses a small share on its low side about as rarely as one of 95 % may; plain resampling does so
    at 1.5 of 50 examples in 22 of 100 worlds, in which none differs and its interval is empty."""
    found = {count: shares([count], n=n).interval(0) for count in range(int(n * truth * 3) + 4)}
    missed = sum(binom.pmf(count, n, truth) for count, ends in found.items() if ends is None or ends[1] < truth)
    assert missed < 0.04


def test_where_nothing_differs_the_bound_is_the_exact_one() -> None:
    """0 of n: the exact 97.5 % bound is 3.69 / n."""
    ends = shares([0], n=400).interval(0)
    assert ends is not None and 400 * ends[1] == pytest.approx(3.69, abs=0.3)
    several = shares([0, 0, 0], n=400).interval(0)
    assert several is not None and 400 * several[1] >= 3.6


def test_one_image_has_no_interval_and_is_no_comparison() -> None:
    probability = {name(key): 0.9 if key else 0.2 for key in ("", "a", "b", "a+b")}
    answers = drawn(probability, num_rows=10, num_seeds=3, rng=np.random.default_rng(0), per_image=10)
    task = finished(answers, ("a", "b"))
    for entry in task["verdict"]:
        assert entry["gain"] == {"not_run": "rests on one image, which shows no variance"} == entry["detectable"]
        assert (entry["p"], entry["p_holm"], entry["comparisons"], entry["grade"]) == (1, 1, 0, "undetermined")
        assert verdict_sentence(entry, []) == (
            f"{entry['encoder']}: not evaluated (rests on one image, which shows no variance)."
        )


def test_rows_without_an_image_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=("gqa",), num_rows=40)
    for path in (folder / "answers").glob("*.parquet"):
        with_column(path, "image", ["", *pq.read_table(path)["image"].to_pylist()[1:]])
    with pytest.raises(AnswersError, match=r"names no image for id '.*': intervals resample images"):
        assemble(folder, num_resamples=50)


def test_a_level_s_interval_stays_among_shares() -> None:
    draws = shares([1], n=20)
    assert draws.interval(0)[0] < 0 and leaf(draws, 0, n=20, bounds=SHARE)["ci95"][0] == 0  # type: ignore[index]


def test_what_is_undefined_is_left_out_of_the_correction(tmp_path: Path) -> None:
    """AUROC of a test split with one class: nothing is tested, and the report says so."""
    folder = write_run(tmp_path / "run", tasks=("hateful_memes", "gqa"), num_rows=100)
    for path in (folder / "answers").glob("hateful_memes.*.parquet"):
        with_column(path, "target", ["1"] * len(pq.read_table(path)))
    results = write_report(folder, num_resamples=100).results
    validate("results", results)
    memes, gqa = results["tasks"]["hateful_memes"], results["tasks"]["gqa"]
    assert "no single encoder has a value" in memes["best_single"]["not_run"]
    for entry in memes["verdict"]:
        assert entry["gain"] == {"not_run": "undefined"} == entry["needed"] and entry["p"] == entry["p_holm"] == 1
        assert UNCOMPARED in entry["lacking"] and UNLEARNED not in entry["lacking"]
    assert {entry["comparisons"] for entry in gqa["verdict"]} == {4}


def test_too_few_of_a_class_say_in_how_many_resamples_they_are_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=("hateful_memes",), num_rows=100)
    for path in (folder / "answers").glob("*.parquet"):
        if ".select" not in path.name:
            with_column(path, "target", ["1" if row < 2 else "0" for row in range(100)])
    task = assemble(folder, num_resamples=200)["tasks"]["hateful_memes"]
    why = task["coalitions"][-1]["not_run"]
    assert re.fullmatch("undefined in [1-5][0-9]% of the resamples", why)  # two memes of one image: (1 - 1/50) ** 50


def test_a_gain_over_the_floor_that_is_not_shown_is_not_called_absent() -> None:
    """Ten points, of which two seeds that differ show little; and a model that does as well as its floor."""
    probability = {name(): 0.5, name("a"): 0.55, name("b"): 0.55, name("a+b"): 0.6}
    rng = np.random.default_rng(5)
    task = finished(drawn(probability, num_rows=200, num_seeds=2, rng=rng, seed_spread=0.05), ("a", "b"))
    low, high = task["gain_over_floor"]["ci95"]
    assert low < 0 < 0.01 < high
    for entry in task["verdict"]:
        assert UNSHOWN in entry["lacking"] and entry["action"] == (
            "undecided: evaluate more examples or seeds, or train longer"
        )
        assert f"cannot be told, as {UNSHOWN}" in verdict_sentence(entry, [])


def test_seeds_that_differ_ask_for_seeds_and_not_for_examples() -> None:
    """Two seeds that differ by tens of points: no number of examples tells what a is worth."""
    probability = {name(): 0.2, name("a"): 0.5, name("b"): 0.6, name("a+b"): 0.65}
    rng = np.random.default_rng(0)
    task = finished(drawn(probability, num_rows=3000, num_seeds=4, rng=rng, seed_spread=0.03), ("a", "b"))
    entry = task["verdict"][0]
    assert entry["grade"] == "undetermined" and "not_run" in entry["needed"]
    assert entry["action"].startswith("undecided: train more seeds")
    said = verdict_sentence({**entry, "detectable": 1.2}, task["interaction"])
    assert "this design detects no difference)" in said


def test_encoders_that_stand_in_for_one_another_may_not_both_go() -> None:
    probability = {name(): 0.3, name("a"): 0.7, name("b"): 0.7, name("a+b"): 0.7}
    answers = table(1500)
    luck = np.random.default_rng(0).random(1500)
    for cell, value in probability.items():
        add(answers, 0, tuple(filter(None, cell.coalition.split("+"))), luck < value)
    task = finished(answers, ("a", "b"))
    together = {entry["encoder"]: entry["together"]["value"] for entry in task["verdict"]}
    assert together == {"a": pytest.approx(0.4, abs=0.03), "b": pytest.approx(0.4, abs=0.03)}
    one, other = task["verdict"]
    assert one["grade"] == other["grade"] == "redundant"
    usual = "may be dropped without a loss above the margin, but not together with {}; confirm with more seeds"
    assert one["action"] == usual.format("b") and other["action"] == usual.format("a")
    assert "; dropping a + b together costs +39." in verdict_sentence(one, task["interaction"])


def test_errors_go_together_within_seeds_not_between_them() -> None:
    """Errors are independent under each seed; seeds of unequal skill make pooled errors look alike."""
    n, rng = 6000, np.random.default_rng(0)
    answers = table(n)
    for seed, skill in enumerate((0.55, 0.7, 0.85)):
        for alias in ("a", "b"):
            add(answers, seed, (alias,), rng.random(n) < skill)
    resampler = Resampler("seeds", num_clusters=n, num_resamples=100, seed=0)
    cells = [answers.across_seeds(name(alias)) for alias in ("a", "b")]
    assert cells[0] is not None and cells[1] is not None
    draws = drawn_shares(answers, "accuracy", resampler, first=cells[0], second=cells[1])
    kappa = 4
    assert draws.apply(overlap_quantities).point[kappa] > 0.05
    assert draws.each(overlap_quantities).point[kappa] == pytest.approx(0, abs=0.02)


def test_information_of_several_seeds_is_not_corrected_for_more_chance_than_they_show() -> None:
    """Answers that know nothing of the target: every part is 0, however many seeds."""
    parts = []
    for world in range(6):
        rng = np.random.default_rng(world)
        answers = table(400, targets=rng.integers(0, 2, 400))
        for seed in range(5):
            for coalition in all_coalitions(("a", "b")):
                add(answers, seed, coalition, rng.random(400) < 0.5)
        [entry] = finished(answers, ("a", "b"), num_resamples=50)["information"]
        parts.append([entry[part]["value"] for part in ("redundant", "unique_first", "unique_second", "synergy")])
    assert np.abs(np.mean(parts, axis=0)).max() < 0.002


def test_each_cell_of_a_control_is_shown_with_its_own_p() -> None:
    names = ["", "a", "b", "a+b"]
    probability = {name(key): {"": 0.5, "a": 0.7, "b": 0.6}.get(key, 0.8) for key in names}
    probability |= {name("a", mode="duplicate"): 0.8, name("b", mode="duplicate"): 0.62}
    answers = drawn(probability, num_rows=400, num_seeds=3, rng=np.random.default_rng(0))
    task = finished(answers, ("a", "b"))
    rows = [[cell.text for cell in row] for row in control_table("gqa", task).rows]
    shown = {row[1]: row for row in rows if row[0] == "duplicate"}
    p_of = {"+".join(one["encoders"]): one["p_holm"] for one in task["complementarity"]["comparisons"]}
    assert set(shown) == {"a", "b"} and p_of["b"] < 0.05 < p_of["a"]
    assert shown["a"][-1] == f"p\u00a0=\u00a0{p_of['a']:.3f}" and shown["b"][-1] != shown["a"][-1]


def test_few_seeds_and_coalitions_that_are_not_there_hedge_what_may_be_dropped() -> None:
    probability = {name(): 0.3, name("a"): 0.7, name("b"): 0.5, name("a+b"): 0.7}
    answers = table(1500)
    luck = np.random.default_rng(0).random(1500)
    for seed in range(3):
        for cell, value in probability.items():
            add(answers, seed, tuple(filter(None, cell.coalition.split("+"))), luck < value)
    assert finished(answers, ("a", "b"))["verdict"][1]["action"] == ACTIONS["redundant"]
    task = finished(answers, ("a", "b"))
    for entry in task["verdict"]:
        entry["grade"] = "redundant"
    task["shortfall"] = [one for one in task["shortfall"] if one["encoders"]]
    _not_all(task)
    assert _action(task["verdict"][1], num_seeds=3) == f"{ACTIONS['redundant']}, but not together with a"
    assert task["verdict"][1]["together"] == {"not_run": "that coalition was not evaluated", "encoders": ["a", "b"]}


def test_what_retrained_models_miss_is_not_redundant() -> None:
    """One model does without b, as the others know what b knows to it; models trained without b lose six points."""
    probability = {name("a+b"): 0.72, name("a"): 0.72, name("b"): 0.65, name(): 0.5}
    probability |= {name(key, mode="retrained"): value for key, value in (("a+b", 0.72), ("a", 0.66), ("b", 0.6))}
    rng = np.random.default_rng(0)
    task = finished(drawn(probability, num_rows=12000, num_seeds=3, rng=rng, seed_spread=0.0005), ("a", "b"))
    entry = task["verdict"][1]
    assert abs(entry["gain"]["value"]) < 0.01 and entry["grade"] == "undetermined"
    assert MISSED in entry["lacking"] and entry["action"] == f"undecided: {MISSED}"
    assert not any("does not show the gain" in one for one in entry["lacking"])


def test_retrained_models_are_asked_before_a_gain_is_established() -> None:
    gain = {"value": 0.05, "ci95": [0.03, 0.07], "n": 1000}
    agrees = {"leave_one_out": {"a": gain}}
    differs = {"leave_one_out": {"a": {"value": -0.03, "ci95": [-0.05, -0.01], "n": 1000}}}
    found = disagreements({"zero": agrees, "mean": agrees, "retrained": differs}, "a", gain=gain)
    assert found == ["removal 'retrained' does not show the gain of a"]
    assert not disagreements({"zero": not_run("x"), "retrained": agrees}, "a", gain=gain)


def test_where_no_example_differs_nothing_has_an_empty_interval() -> None:
    answers = table(40)
    right = np.random.default_rng(0).random(40) < 0.7
    for coalition in (("a",), ("b",), ("a", "b")):
        add(answers, 0, coalition, right)
    add(answers, 0, (), np.zeros(40, dtype=bool))
    task = finished(answers, ("a", "b"))
    [pair], ensemble = task["overlap"], task["ensemble"]
    for leaf_, value in ((pair["disagreement"], 0), (pair["union"], right.mean()), (ensemble["union"], right.mean())):
        assert leaf_["value"] == pytest.approx(value) and leaf_["ci95"][1] - leaf_["ci95"][0] > 0.05
    assert pair["disagreement"]["ci95"] == task["flips"]["a"]["rescue"]["ci95"]
    for leaf_ in (pair["q"], pair["error_consistency"], task["cur"]["a"], task["information_gap"]):
        assert leaf_["ci95"] is None and leaf_["ci95_not_run"] == UNMOVED


def test_recalls_of_one_have_an_interval(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=("flickr30k",), num_rows=120)
    for path in (folder / "answers").glob("*.parquet"):
        content = pq.read_table(path)
        ones = pa.array([1] * len(content), content.schema.field("rank").type)
        pq.write_table(content.set_column(content.column_names.index("rank"), "rank", ones), path)
    found = assemble(folder, num_resamples=50)["tasks"]["flickr30k"]["secondary"]
    # 60 images, of which 3.7 may have gone the other way.
    assert found["recall@1_i2t"]["ci95"] == [pytest.approx(1 - 3.92 / 60, abs=2e-3), 1.0]
    assert found["rsum"]["ci95"] == [pytest.approx(600 * (1 - 3.92 / 60), abs=1), 600.0]


def test_recalls_count_the_queries_of_their_direction(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=("flickr30k",), num_rows=120)
    task = assemble(folder, num_resamples=50)["tasks"]["flickr30k"]
    of = {key: value["n"] for key, value in task["secondary"].items() if key.startswith("recall@1_")}
    assert of == {"recall@1_i2t": 60, "recall@1_t2i": 60} and task["secondary"]["rsum"]["n"] == 120


def test_similarity_does_not_depend_on_the_scale_of_features() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(200, 8))
    second = first @ rng.normal(size=(8, 5)) + rng.normal(size=(200, 5))
    usual = cka_leaf(first, second)
    assert cka_leaf(1e-6 * first + 1.0, 1e-9 * second) == {
        **usual,
        "value": pytest.approx(usual["value"], abs=1e-5),
        "ci95": pytest.approx(usual["ci95"], abs=1e-5),
    }
    assert "constant" in cka_leaf(np.full((200, 8), 3.7), second)["not_run"]


def test_nan_draws_are_not_counted_as_strays() -> None:
    samples = np.concatenate([np.random.default_rng(0).normal(1.0, 0.1, 990), np.full(10, math.nan)])[:, None]
    assert Draws(np.array([1.0]), samples).p_value(0) == pytest.approx(1 / 991)
    assert Draws(np.array([math.nan]), samples).p_value(0) == 1


def test_a_control_that_does_better_is_said_to() -> None:
    probability = {name(key): {"": 0.3, "a": 0.6, "b": 0.6}.get(key, 0.65) for key in ("", "a", "b", "a+b")}
    probability |= {name("a+b", mode="averaged"): 0.8, name("a", mode="duplicate"): 0.65}
    task = finished(drawn(probability, num_rows=900, num_seeds=3, rng=np.random.default_rng(0)), ("a", "b"))
    lacking = task["complementarity"]["lacking"]
    assert "control 'averaged' of a+b does better than all encoders together" in lacking
    assert "the gain over control 'duplicate' of a may be zero" in lacking
