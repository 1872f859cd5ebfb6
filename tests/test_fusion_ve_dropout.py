"""VE-dropout against draws and frequencies worked out by hand."""

import pytest

from fusion.errors import FusionError
from fusion.ve_dropout import coalition_for, group_batch


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
