"""Linear maps over coalitions: by hand, by their axioms, and against shapiq."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.coalition_values import CoalitionSpace, all_coalitions, coalition_name

TWO = CoalitionSpace(("a", "b"))
# v() = 10, v(a) = 30, v(b) = 20, v(ab) = 50.
GAME = np.array([10.0, 30.0, 20.0, 50.0])


def test_coalitions_come_by_size_then_order() -> None:
    expected = [(), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert list(all_coalitions(["a", "b", "c"])) == expected
    assert coalition_name(("a", "c")) == "a+c"
    assert coalition_name(()) == ""


def test_two_encoders_by_hand() -> None:
    assert (TWO.shapley() @ GAME).tolist() == [25.0, 15.0]  # a: (20 + 30) / 2, b: (10 + 20) / 2
    assert (TWO.interaction(2) @ GAME).tolist() == [10.0]  # 50 - 30 - 20 + 10
    assert (TWO.moebius() @ GAME).tolist() == [10.0, 20.0, 10.0, 10.0]
    assert (TWO.leave_one_out() @ GAME).tolist() == [30.0, 20.0]
    assert (TWO.solo() @ GAME).tolist() == [20.0, 10.0]
    assert TWO.cur(GAME).tolist() == [0.6, 0.4]
    assert TWO.information_gap(GAME) == pytest.approx(0.2)


def test_interaction_share_by_hand() -> None:
    # With two encoders the additive fit misses every value by a quarter of the interaction.
    spread = ((GAME - 27.5) ** 2).sum()
    assert TWO.interaction_share(GAME) == pytest.approx(4 * 2.5**2 / spread)
    assert TWO.interaction_share(np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.0)
    assert np.isnan(TWO.interaction_share(np.ones(4)))


def test_cur_of_a_worthless_whole_is_undefined() -> None:
    assert np.isnan(TWO.cur(np.array([0.1, 0.0, 0.0, 0.0]))).all()


def test_axioms_on_a_random_game() -> None:
    rng = np.random.default_rng(0)
    space = CoalitionSpace(("a", "b", "c", "d"))
    games = rng.normal(size=(5, 16))
    shapley = games @ space.shapley().T
    np.testing.assert_allclose(shapley.sum(axis=1), games[:, -1] - games[:, 0])
    null = games.copy()
    for coalition in space.coalitions:
        if "d" in coalition:
            rest = [alias for alias in coalition if alias != "d"]
            null[:, space.column(coalition)] = null[:, space.column(rest)]
    np.testing.assert_allclose((null @ space.shapley().T)[:, 3], 0, atol=1e-12)
    moebius = games @ space.moebius().T
    np.testing.assert_allclose(moebius.sum(axis=1), games[:, -1])


def test_duplicates_and_xor_are_told_apart() -> None:
    space = CoalitionSpace(("a", "b", "c", "d"))
    # a and b hold the same bit; c and d help only together.
    game = np.array([float(bool({"a", "b"} & set(s))) + float({"c", "d"} <= set(s)) for s in space.coalitions])
    assert (space.leave_one_out() @ game).tolist() == [0, 0, 1, 1]
    assert (space.solo() @ game).tolist() == [1, 1, 0, 0]
    pairs = dict(zip(space.sets(2), space.interaction(2) @ game, strict=True))
    assert pairs["a", "b"] == pytest.approx(-1)
    assert pairs["c", "d"] == pytest.approx(1)
    assert pairs["a", "c"] == pytest.approx(0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_agrees_with_shapiq(order: int) -> None:
    import shapiq

    rng = np.random.default_rng(order)
    space = CoalitionSpace(tuple("abcde"))
    game = rng.normal(size=32)

    def play(presence: np.ndarray) -> np.ndarray:
        names = [[a for a, here in zip(space.aliases, row, strict=True) if here] for row in presence]
        return np.array([game[space.column(name)] for name in names])

    computer = shapiq.ExactComputer(n_players=5, game=play)
    theirs = computer(index="SII" if order > 1 else "SV", order=order)
    mine = space.interaction(order) @ game
    for members, value in zip(space.sets(order), mine, strict=True):
        assert value == pytest.approx(theirs[tuple(space.aliases.index(m) for m in members)], abs=1e-9)


def test_moebius_agrees_with_shapiq() -> None:
    import shapiq

    space = CoalitionSpace(tuple("abcd"))
    game = np.random.default_rng(4).normal(size=16)

    def play(presence: np.ndarray) -> np.ndarray:
        names = [[a for a, here in zip(space.aliases, row, strict=True) if here] for row in presence]
        return np.array([game[space.column(name)] for name in names])

    theirs = shapiq.ExactComputer(n_players=4, game=play)(index="Moebius", order=4)
    for members, value in list(zip(space.coalitions, space.moebius() @ game, strict=True))[1:]:
        assert value == pytest.approx(theirs[tuple(space.aliases.index(m) for m in members)], abs=1e-9)
