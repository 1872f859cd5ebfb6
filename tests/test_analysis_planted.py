"""Worlds whose truth is planted: what each encoder gives is known, and must be found (specification, planted tests)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted_worlds import add, drawn, finished, name, observed, table

from analysis.coalition_values import all_coalitions, coalition_name
from analysis.errors import AnswersError
from analysis.sampled import sampled_coalitions
from analysis.sentences import slice_lines
from analysis.similarity import similarity_table
from analysis.words import claim_words, image_use_words, points

# A and B see the same bit, C and D one half of a parity each, N nothing that matters.
SEES = {"a": "p", "b": "p", "c": "q", "d": "r", "n": "z"}


def covers(leaf: dict[str, Any], value: float) -> bool:
    low, high = leaf["ci95"]
    return bool(low <= value <= high)


def pairs_of(task: dict[str, Any], key: str = "interaction") -> dict[tuple[str, ...], dict[str, Any]]:
    return {tuple(entry["encoders"]): entry for entry in task[key]}


@pytest.fixture(scope="module")
def mixed() -> dict[str, Any]:
    def target(p: int, q: int, r: int, z: int, which: int) -> int:
        return p if which else q ^ r

    # The last bit says which question is asked; the text gives it away.
    return finished(observed(target, SEES, bits="pqrzw", text="w"), tuple(SEES))


def test_noise_gets_nothing(mixed: dict[str, Any]) -> None:
    assert mixed["shapley"]["n"]["value"] == pytest.approx(0, abs=0.01) and covers(mixed["shapley"]["n"], 0)
    assert mixed["logprob"]["shapley"]["n"]["value"] == pytest.approx(0, abs=1e-9)
    for pair, found in pairs_of(mixed).items():
        if "n" in pair:
            assert covers(found, 0), pair


def test_duplicates_share_their_credit_and_are_redundant(mixed: dict[str, Any]) -> None:
    for alias in "ab":
        assert mixed["leave_one_out"][alias]["value"] == pytest.approx(0, abs=1e-9)
        assert mixed["solo"][alias]["ci95"][0] > 0.15
        assert next(e for e in mixed["verdict"] if e["encoder"] == alias)["grade"] == "redundant"
    assert mixed["shapley"]["a"]["value"] == pytest.approx(mixed["shapley"]["b"]["value"], abs=1e-6)
    assert pairs_of(mixed)["a", "b"]["ci95"][1] < 0
    overlap = next(e for e in mixed["overlap"] if e["encoders"] == ["a", "b"])
    assert overlap["error_consistency"]["value"] == 1 and overlap["capa"]["value"] == 1
    features = np.random.default_rng(0).normal(size=(200, 16))
    alike = similarity_table({"a": features, "b": features})
    assert alike["cka"][0]["value"] == pytest.approx(1) and alike["mutual_knn"][0]["value"] == 1


SENSES = ("colour", "position", "count", "small objects", "rendered text")


@pytest.fixture(scope="module")
def senses() -> dict[str, Any]:
    """Every encoder lacks one sense; the text's three bits say which one the question needs."""

    def which(*bits: int) -> int:
        return (4 * bits[5] + 2 * bits[6] + bits[7]) % len(SENSES)

    sees = {f"no-{sense.split()[-1]}": "01234".replace(str(k), "") for k, sense in enumerate(SENSES)}
    answers = observed(
        lambda *bits: bits[which(*bits)],
        sees,
        bits="01234uvw",
        text="uvw",
        factor=lambda *bits: SENSES[which(*bits)],
        num_rows=1200,
    )
    return finished(answers, tuple(sees))


@pytest.mark.parametrize("sense", SENSES)
def test_an_encoder_that_lacks_a_sense_gets_nothing_where_it_is_needed(senses: dict[str, Any], sense: str) -> None:
    blind, found = f"no-{sense.split()[-1]}", senses["slices"]["factor"][sense]
    assert found["shapley"][blind]["value"] == pytest.approx(0, abs=1e-6) and covers(found["solo"][blind], 0)
    for alias, gain in found["shapley"].items():
        assert alias == blind or (gain["ci95"][0] > 0.05 and gain["p_bh"] < 0.05)
    (line,) = [line for line in slice_lines(senses, list(found["shapley"])) if line.startswith(f"{blind}: the largest")]
    assert f"nothing is shown for factor = {sense}: " in line


def test_parity_is_synergy(mixed: dict[str, Any]) -> None:
    for alias in "cd":
        assert covers(mixed["solo"][alias], 0)
        assert mixed["leave_one_out"][alias]["ci95"][0] > 0.15
    assert pairs_of(mixed)["c", "d"]["ci95"][0] > 0.15
    assert pairs_of(mixed["logprob"])["c", "d"]["ci95"][0] > 0.1
    information = pairs_of(mixed, "information")
    assert information["a", "b"]["redundant"]["value"] > 0.1
    assert information["a", "b"]["unique_first"]["value"] == pytest.approx(0, abs=0.01)


def test_additive_evidence_has_no_interaction_and_only_the_metric_calls_it_redundant() -> None:
    rng = np.random.default_rng(0)
    answers = table(1500)
    evidence = {alias: rng.normal(1.2, 1.2, size=1500) for alias in "abc"}  # log-odds for the right answer
    for coalition in all_coalitions(tuple("abc")):
        odds = np.sum([evidence[alias] for alias in coalition], axis=0) + np.zeros(1500)
        add(answers, 0, coalition, odds + 1e-9 * rng.normal(size=1500) > 0, logprob=odds)
    task = finished(answers, tuple("abc"))
    for entry in task["logprob"]["interaction"]:
        assert entry["value"] == pytest.approx(0, abs=1e-6)
    assert task["logprob"]["interaction_share"]["value"] == pytest.approx(0, abs=1e-6)
    assert task["interaction_share"]["ci95"][0] > 0.01
    assert task["logprob"]["only_in_the_metric"] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert all(entry["replaceable_by"] == [] for entry in task["verdict"])  # nobody is said to share what it knows


def test_a_harmful_encoder_is_called_harmful() -> None:
    values = {"": 0.5, "a": 0.8, "h": 0.45, "a+h": 0.65}
    probability = {name(key): value for key, value in values.items()}
    answers = drawn(probability, num_rows=800, num_seeds=3, rng=np.random.default_rng(1))
    task = finished(answers, ("a", "h"))
    assert task["shapley"]["h"]["ci95"][1] < 0
    assert task["flips"]["h"]["harm"]["ci95"][0] > task["flips"]["h"]["rescue"]["ci95"][1]
    assert {e["encoder"]: e["grade"] for e in task["verdict"]}["h"] == "harmful"
    harmed = task["flips"]["h"]["harmed"]
    assert harmed and all(one["without"] == one["target"] != one["with"] and one["seeds"] == 3 for one in harmed)


def test_a_task_that_the_text_solves_gives_no_credit() -> None:
    task = finished(observed(lambda p: p, {"a": "p", "b": "p"}, bits="p", text="p"), ("a", "b"))
    assert task["coalitions"][0]["value"] == task["coalitions"][-1]["value"]
    assert all(leaf["value"] == 0 for leaf in task["shapley"].values())
    assert all(entry["grade"] == "undetermined" for entry in task["verdict"])


ENSEMBLE = ("a", "b", "c")


def ensemble(*, control: float, num_seeds: int = 3) -> dict[str, Any]:
    """Three encoders of 70 % that together reach 80 %; every control reaches `control`."""
    by_size = {0: 0.5, 1: 0.7, 2: 0.76, 3: 0.8}
    names = {coalition_name(c): by_size[len(c)] for c in all_coalitions(ENSEMBLE)}
    probability = {name(key): value for key, value in names.items()}
    probability |= {name(key, removal="mean"): value for key, value in names.items()}
    probability |= {name("a", mode=mode): control for mode in ("duplicate", "seeds", "matched")}
    probability |= {name("a+b+c", mode="averaged"): control, name(mode="blind"): 0.5}
    probability |= {name("a+b+c", mode="shuffled"): 0.5}
    answers = drawn(probability, num_rows=2000, num_seeds=num_seeds, rng=np.random.default_rng(2), seed_spread=0.002)
    return finished(answers, ENSEMBLE)


def test_seeds_of_one_encoder_are_not_complementary() -> None:
    refused = ensemble(control=0.8)
    assert all(entry["gain"]["ci95"][0] > 0 for entry in refused["verdict"])  # each adds, as any further seed would
    assert not refused["complementarity"]["claimed"]
    assert claim_words(refused).startswith("Complementarity is not claimed: the gain over control")
    assert {entry["grade"] for entry in refused["verdict"]} == {"suggestive"}
    for control in ("duplicate", "seeds", "matched"):
        assert f"the gain over control {control!r} of a may be zero" in refused["complementarity"]["lacking"]
    gain = refused["control_gains"]["duplicate"]
    assert covers(gain, 0) and abs(gain["value"]) < 0.02  # A + A with more parameters gains nothing


def test_different_encoders_that_beat_every_control_are() -> None:
    task = ensemble(control=0.72)
    assert task["complementarity"]["claimed"]
    assert claim_words(task).startswith("All encoders together gain over every control; the least, +")
    assert {entry["grade"] for entry in task["verdict"]} == {"established"}
    assert {e["grade"] for e in ensemble(control=0.72, num_seeds=2)["verdict"]} <= {"suggestive", "undetermined"}


def test_the_union_of_two_seeds_shows_what_a_union_shows() -> None:
    # Two encoders that fail on the same examples as often as one encoder's seeds do, then on others.
    rng = np.random.default_rng(3)
    answers, others = table(1500), table(1500)
    hard, harder = rng.random(1500) < 0.5, rng.random(1500) < 0.5
    for seed in range(3):
        for target, second in ((answers, hard), (others, harder)):
            add(target, seed, (), rng.random(1500) < 0.5)
            add(target, seed, ("a",), rng.random(1500) < np.where(hard, 0.4, 0.9))
            add(target, seed, ("b",), rng.random(1500) < np.where(second, 0.4, 0.9))
            add(target, seed, ("a", "b"), rng.random(1500) < 0.8)
    same, different = (finished(found, ("a", "b"))["overlap"][0] for found in (answers, others))
    for entry in (same, different):
        single = 0.65
        assert entry["union"]["value"] > single + 0.1  # a union always looks like a gain
        assert covers(entry["union_seeds"], (1 - 0.6**2 + 1 - 0.1**2) / 2)
    assert covers(same["union_gain_over_seeds"], 0)
    assert different["union_gain_over_seeds"]["ci95"][0] > 0
    assert covers(different["union_independent"], 1 - 0.35**2)


@pytest.mark.parametrize(
    ("shuffled", "num_rows", "state"),
    [(0.70, 20000, "image-blind"), (0.55, 400, "uses the image"), (0.70, 400, "cannot tell")],
)
def test_an_evaluation_that_never_looks_is_flagged(shuffled: float, num_rows: int, state: str) -> None:
    probability = {name(): 0.5, name("a"): 0.7, name("a", mode="shuffled"): shuffled}
    rng = np.random.default_rng(4)
    answers = drawn(probability, num_rows=num_rows, num_seeds=3, rng=rng, seed_spread=0.0, own_luck=0.05)
    right = rng.random(num_rows) < shuffled
    if state == "cannot tell":
        add(answers, 0, ("a",), right, mode="shuffled")
    found = finished(answers, ("a",))["image_use"]
    assert found["state"] == state
    words = image_use_words({"image_use": found})
    assert points(found["difference"]) in words and state in words.lower()
    assert (found["p_equivalent"] < 0.05) == (state == "image-blind")


def test_names_and_order_of_encoders_change_nothing() -> None:
    def target(p: int, q: int, r: int) -> int:
        return p & (q | r)

    first = finished(observed(target, {"a": "p", "b": "q", "c": "r"}, bits="pqr", num_rows=300), ("a", "b", "c"))
    other = finished(observed(target, {"z": "r", "y": "p", "x": "q"}, bits="pqr", num_rows=300), ("z", "y", "x"))
    for mine, theirs in (("a", "y"), ("b", "x"), ("c", "z")):
        for key in ("shapley", "leave_one_out", "solo", "cur"):
            assert first[key][mine]["value"] == pytest.approx(other[key][theirs]["value"], abs=2e-6), key
    assert first["interaction_share"] == other["interaction_share"]


def test_interactions_of_three_are_found() -> None:
    task = finished(
        observed(lambda p, q, r: p ^ q ^ r, {"a": "p", "b": "q", "c": "r"}, bits="pqr"), ("a", "b", "c")
    )
    [triple] = task["higher_interaction"]
    assert triple["encoders"] == ["a", "b", "c"] and triple["ci95"][0] > 0.3


def test_nine_encoders_are_estimated_from_some_coalitions() -> None:
    aliases = tuple("abcdefghi")
    weights = np.array([0.12, 0.08, 0.04, 0.02, 0.0, 0.02, 0.0, 0.02, 0.1])
    chosen = sampled_coalitions(aliases, count=120, seed=0)
    worth = {c: 0.5 + sum(weights[aliases.index(alias)] for alias in c) for c in chosen}
    answers = drawn(
        {name(coalition_name(c)): value for c, value in worth.items()},
        num_rows=500,
        num_seeds=1,
        rng=np.random.default_rng(6),
        image_spread=0.0,
        seed_spread=0.0,
    )
    task = finished(answers, aliases, num_resamples=200)
    assert len(task["coalitions"]) == len(chosen) < 2**9
    for alias, weight in zip(aliases, weights, strict=True):  # an additive game, so the fit is exact but for noise
        assert covers(task["shapley"][alias], weight) or abs(task["shapley"][alias]["value"] - weight) < 0.03
    assert {entry["index"] for entry in task["interaction"]} == {"FSII"} and len(task["interaction"]) == 36
    assert "not_run" in task["higher_interaction"] and "not_run" in task["interaction_share"]
    del answers.cells[0][name("a")]
    with pytest.raises(AnswersError, match=r"1 of \d+ masked coalitions have no answers \(a\)"):
        finished(answers, aliases, num_resamples=50)
