"""VE-dropout against draws and frequencies worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError

from fusion.errors import FusionError
from fusion.types import Features
from fusion.ve_dropout import Fill, VEDropout, coalition_for, group_batch


def test_draws_follow_the_hash() -> None:
    """First bytes of `echo -n '[3,1,0,"keep","a"]' | b2sum -l 64`, for rate .5 (0x80), empty .1 (0x19).

    group: empty | a b c -> 0: d7 | d3 72 76, 1: 3f | c4 59 4b, 2: be | 5f 7b 3f (none kept: b, the largest,
    stays), 3: 6e | 02 88 c0, 4: 73 | a7 bf c6, 5: 08 (empty).
    """
    drawn = [coalition_for(3, 1, group, ("a", "b", "c"), 0.5) for group in range(6)]
    assert drawn == [("a",), ("a",), ("b",), ("b", "c"), ("a", "b", "c"), ()]


def test_frequencies_match_the_formula() -> None:
    """Rate .4, empty .2: P() = .2, P(a) = P(b) = .8 (.4 x .6 + .16 / 2) = .256, P(ab) = .8 x .36 = .288."""
    draws = 20_000
    counts: dict[tuple[str, ...], int] = {}
    for group in range(draws):
        drawn = coalition_for(0, 0, group, ("a", "b"), 0.4, 0.2)
        counts[drawn] = counts.get(drawn, 0) + 1
    for coalition, probability in {(): 0.2, ("a",): 0.256, ("b",): 0.256, ("a", "b"): 0.288}.items():
        tolerance = 4 * (probability * (1 - probability) / draws) ** 0.5
        assert abs(counts[coalition] / draws - probability) < tolerance, coalition


def test_order_of_encoders_changes_only_the_order() -> None:
    for group in range(50):
        forward = coalition_for(1, 2, group, ("a", "b", "c"), 0.6)
        assert tuple(reversed(forward)) == coalition_for(1, 2, group, ("c", "b", "a"), 0.6)


def test_seed_epoch_and_group_each_matter() -> None:
    def draws(seed: int, epoch: int, prefix: str) -> list[tuple[str, ...]]:
        return [coalition_for(seed, epoch, f"{prefix}{i}", ("a", "b", "c"), 0.5) for i in range(30)]

    first = draws(0, 0, "x")
    assert first == draws(0, 0, "x")
    assert all(first != other for other in (draws(1, 0, "x"), draws(0, 1, "x"), draws(0, 0, "y")))


def test_extremes() -> None:
    aliases = ("a", "b", "c")
    assert {coalition_for(0, 0, i, aliases, 0.0, 0.0) for i in range(50)} == {aliases}
    assert {coalition_for(0, 0, i, aliases, 1.0, 0.0) for i in range(50)} == {("a",), ("b",), ("c",)}
    assert {coalition_for(0, 0, i, aliases, 0.5, 1.0) for i in range(50)} == {()}
    assert coalition_for(0, 0, 0, (), 0.5, 0.0) == ()


@pytest.mark.parametrize(("rate", "empty", "named"), [(1.5, 0.1, "rate=1.5"), (0.5, -0.1, "empty=-0.1")])
def test_refuses_what_is_no_probability(rate: float, empty: float, named: str) -> None:
    with pytest.raises(FusionError, match=named):
        coalition_for(0, 0, 0, ("a",), rate, empty)


def test_group_batch() -> None:
    assert group_batch(7, groups=3) == (slice(0, 3), slice(3, 5), slice(5, 7))
    assert group_batch(2, groups=4) == (slice(0, 1), slice(1, 2))
    with pytest.raises(FusionError, match="groups=0"):
        group_batch(4, groups=0)


def test_rates_of_each_encoder() -> None:
    """Rates .5 and .2, empty 0: P(a) = .5 x .2 + .1 / 2 = .15, P(b) = .4 + .05 = .45, P(ab) = .4."""
    draws = 6_000
    counts: dict[tuple[str, ...], int] = {}
    for group in range(draws):
        drawn = coalition_for(0, 0, group, ("a", "b"), {"a": 0.5, "b": 0.2}, 0.0)
        counts[drawn] = counts.get(drawn, 0) + 1
    for coalition, probability in {("a",): 0.15, ("b",): 0.45, ("a", "b"): 0.4}.items():
        tolerance = 4 * (probability * (1 - probability) / draws) ** 0.5
        assert abs(counts[coalition] / draws - probability) < tolerance, coalition


def test_warm_up_scales_the_rates_and_only_ever_takes_away() -> None:
    """At a quarter of training, half of a warm-up of one half: rate .6 is .3, empty .2 is .1."""
    dropout = VEDropout({"a": 1, "b": 1}, rate=0.6, empty=0.2, warmup=0.5)
    for group in range(200):
        drawn = dropout.coalition(1, 2, group, progress=0.25)
        assert drawn == coalition_for(1, 2, group, ("a", "b"), 0.3, 0.1)
        assert dropout.coalition(1, 2, group, progress=0.0) == ("a", "b")
        late = dropout.coalition(1, 2, group, progress=0.5)
        assert late == dropout.coalition(1, 2, group) == coalition_for(1, 2, group, ("a", "b"), 0.6, 0.2)
        assert set(late) <= set(drawn)
    constant = VEDropout({"a": 1, "b": 1}, rate={"a": 0.6, "b": 0.1}, empty=0.2)
    for group in range(50):
        expected = coalition_for(1, 2, group, ("a", "b"), {"a": 0.6, "b": 0.1}, 0.2)
        assert constant.coalition(1, 2, group, progress=0.0) == constant.coalition(1, 2, group) == expected


def observed(fill: Fill) -> VEDropout:
    dropout = VEDropout({"a": 2}, fill=fill)
    tokens = torch.tensor([[[1.0, 2.0], [5.0, 5.0]], [[3.0, 6.0], [torch.nan, torch.nan]]])
    boxes = torch.tensor([[[0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]], [[0.4, 0.2, 0.2, 0.4], [0.0, 0.0, 0.0, 0.0]]])
    dropout.observe({"a": Features(tokens, boxes, torch.tensor([[True, True], [True, False]]))})
    longer = Features(torch.full((1, 3, 2), 5.0), torch.full((1, 3, 4), 0.3), torch.tensor([[False, False, True]]))
    dropout.observe({"a": longer})
    return dropout


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_fills_by_hand(fill: Fill) -> None:
    found = observed(fill).fills((), batch_size=2)["a"]
    tokens = torch.tensor([[2.0, 4.0], [5.0, 5.0], [5.0, 5.0]])
    torch.testing.assert_close(found.tokens[1], tokens if fill == "mean" else torch.zeros(3, 2))
    torch.testing.assert_close(found.boxes[0], torch.tensor([[0.3, 0.2, 0.3, 0.4], [0.5, 0.5, 0.2, 0.2], [0.3] * 4]))
    assert found.valid.tolist() == [[True] * 3] * 2
    assert observed(fill).fills(("a",), batch_size=2) == {}


def test_nothing_stands_in_for_what_is_dropped() -> None:
    assert observed("drop").fills((), batch_size=2) == {}


def test_what_was_observed_is_saved_and_loaded() -> None:
    state = observed("mean").state_dict()
    loaded = VEDropout({"a": 2}, fill="mean")
    loaded.load_state_dict(state)
    assert torch.equal(loaded.fills((), batch_size=1)["a"].tokens, observed("mean").fills((), batch_size=1)["a"].tokens)
    with pytest.raises(RuntimeError, match="tokens_a"):
        VEDropout({"a": 3}, fill="mean").load_state_dict(state)


def test_module_refuses() -> None:
    features = Features(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: VEDropout({"a": 2}, rate=1.5), "ve_dropout.rate=1.5 is not a probability"),
        (lambda: VEDropout({"a": 2}, rate={"a": -1.0}), r"ve_dropout.rate\[a\]=-1.0"),
        (lambda: VEDropout({"clip": 2}, rate={"clap": 0.5}), "rate names 'clap'; did you mean 'clip'"),
        (lambda: VEDropout({"a": 2, "b": 2}, rate={"a": 0.5}), "none for encoder 'b'; given: a"),
        (lambda: VEDropout({"a": 2}, empty=2.0), "ve_dropout.empty=2.0"),
        (lambda: VEDropout({"a": 2}, warmup=-0.1), "ve_dropout.warmup=-0.1"),
        (lambda: VEDropout({"a": 2}).coalition(0, 0, 0, progress=1.5), "ve_dropout.progress=1.5"),
        (lambda: VEDropout({"a": 2}, fill="mean").fills((), batch_size=1), "observed no features of encoder 'a'"),
        (lambda: VEDropout({"a": 2}).observe({"b": features}), "unknown encoder 'b'"),
    ]
    for act, message in cases:
        with pytest.raises(FusionError, match=message):
            act()
    with pytest.raises((FusionError, TypeCheckError), match="fill 'man'; did you mean 'mean'|Type-check"):
        VEDropout({"a": 2}, fill="man")  # type: ignore[arg-type]
