"""Statistics against independent libraries: shapiq, statsmodels, scikit-learn, dit, scipy; and sampled coalitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.coalition_values import CoalitionSpace
from analysis.contributions import Contributions
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.information import decompose, mutual_information
from analysis.neighbours import nearest, neighbour_table, shared
from analysis.overlap import capa, pseudo_values
from analysis.removals import rank_correlation
from analysis.sampled import estimate, fit_matrix, sampled_coalitions
from analysis.similarity import debiased_linear_cka
from analysis.streamed import StreamedSimilarity
from analysis.verdict import benjamini_hochberg, holm, mcnemar_exact


def players(space: CoalitionSpace, game: np.ndarray) -> object:
    def play(presence: np.ndarray) -> np.ndarray:
        names = [[a for a, here in zip(space.aliases, row, strict=True) if here] for row in presence]
        return np.array([game[space.column(one)] for one in names])

    return play


@pytest.mark.parametrize("index", ["FSII", "SII"])
def test_maps_of_eight_encoders_agree_with_shapiq(index: str) -> None:
    import shapiq

    space = CoalitionSpace(tuple("abcdefgh"))
    game = np.random.default_rng(0).normal(size=256)
    theirs = shapiq.ExactComputer(n_players=8, game=players(space, game))(index=index, order=2)
    mine = (fit_matrix(space, order=2)[8:] if index == "FSII" else space.interaction(2)) @ game
    for members, value in zip(space.sets(2), mine, strict=True):
        assert value == pytest.approx(theirs[tuple(space.aliases.index(m) for m in members)], abs=1e-6)


def test_the_fit_over_all_coalitions_is_the_shapley_value() -> None:
    space = CoalitionSpace(tuple("abcdef"))
    np.testing.assert_allclose(fit_matrix(space, order=1), space.shapley(), atol=1e-9)


def test_sampled_coalitions_estimate_within_their_interval() -> None:
    aliases = tuple("abcdefghij")
    everything, hits = CoalitionSpace(aliases), []
    member = np.array([[alias in coalition for alias in aliases] for coalition in everything.coalitions], dtype=float)
    for world in range(20):
        rng = np.random.default_rng(world)
        pairs = member @ (0.2 * rng.normal(size=(10, 10)))
        game = np.tanh((member @ rng.normal(size=10) + (pairs * member).sum(axis=1)) / 3)
        chosen = sampled_coalitions(aliases, count=120, seed=world)
        assert len(chosen) <= 120 and {(), aliases, ("a",), aliases[1:]} <= set(chosen)
        space = CoalitionSpace(aliases, chosen)
        values = game[[everything.column(coalition) for coalition in chosen]]
        found = estimate(space, Draws(values, np.tile(values, (20, 1))), order=1)
        assert found.point.sum() == pytest.approx(game[-1] - game[0])
        truth = everything.shapley() @ game
        ends = [found.interval(column) for column in range(10)]
        hits += [end is not None and end[0] <= value <= end[1] for end, value in zip(ends, truth, strict=True)]
        assert np.abs(found.point - truth).max() < 0.3
    assert 0.9 <= np.mean(hits) < 1  # the estimate's error is in the interval, and the interval is no wider than that


def test_too_few_coalitions_are_refused() -> None:
    with pytest.raises(ValueError, match="30 coalitions of 10 encoders are too few .*: at least 46"):
        sampled_coalitions(tuple("abcdefghij"), count=30, seed=0)
    aliases = tuple("abcdefghi")
    stored = [(), *((a,) for a in aliases), *(tuple(x for x in aliases if x != a) for a in aliases), aliases]
    space = CoalitionSpace(aliases, tuple(stored))
    with pytest.raises(AnswersError, match="0 pairs of coalitions with 2 of 9 encoders"):
        estimate(space, Draws(np.zeros(20), np.zeros((5, 20))), order=1)
    few = CoalitionSpace(aliases, sampled_coalitions(aliases, count=44, seed=0))
    values = Draws(np.zeros(len(few.coalitions)), np.zeros((5, len(few.coalitions))))
    with pytest.raises(AnswersError, match="do not determine 45 terms of order 2 over 9 encoders"):
        estimate(few, values, order=2)
    assert {one["not_run"] for one in Contributions(few, values, 9).interaction()} == {
        f"{len(few.coalitions) - 2} coalitions do not determine 45 terms of order 2 over 9 encoders"
    }


def test_tests_and_corrections_agree_with_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(0).random(12) ** 3
    assert holm(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-9)
    assert benjamini_hochberg(list(p_values)) == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=1e-9)
    for gained, lost in ((5, 0), (12, 7), (40, 41), (0, 3)):
        assert mcnemar_exact(gained, lost) == pytest.approx(mcnemar([[50, gained], [lost, 9]], exact=True).pvalue)


@pytest.mark.parametrize("margin", [0.01, 0.2])
def test_equivalence_agrees_with_statsmodels(margin: float) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    values = np.array([0.02, -0.03, 0.01, 0.05, -0.01])
    # Seeds are all that varies, so the test is that of five numbers.
    still = np.tile(values[:, None, None], (1, 9, 1))
    draws = Draws(np.array([values.mean()]), still.mean(axis=0), values[:, None], still)
    expected = DescrStatsW(values).ttost_mean(-margin, margin)[0]
    assert draws.p_equivalent(0, margin=margin) == pytest.approx(expected, abs=1e-6)


CANONICAL = {
    "exclusive or": [(x ^ z, x, z, 0.25) for x in (0, 1) for z in (0, 1)],
    "duplicate": [(x, x, x, 0.5) for x in (0, 1)],
    "unique": [(x, x, z, 0.25) for x in (0, 1) for z in (0, 1)],
}


def joint_of(cells: list[tuple[int, int, int, float]]) -> np.ndarray:
    joint = np.zeros((1, 2, 2, 2))
    for target, first, second, mass in cells:
        joint[0, target, first, second] = mass
    return joint


def from_dit(joint: np.ndarray) -> list[float]:
    import dit
    from dit.pid import PID_BROJA

    cells = [(f"{x}{z}{y}", mass) for (y, x, z), mass in np.ndenumerate(joint) if mass > 0]
    given = dit.Distribution([word for word, _ in cells], [mass for _, mass in cells])
    # Its default solver (SLSQP) misses the minimum by up to 1e-2 bits on random distributions.
    found = PID_BROJA(given, [[0], [1]], [2], method="admui")
    return [float(found[part]) for part in (((0,), (1,)), ((0,),), ((1,),), ((0, 1),))]


@pytest.mark.parametrize("case", list(CANONICAL))
def test_information_agrees_with_dit_on_canonical_gates(case: str) -> None:
    joint = joint_of(CANONICAL[case])
    np.testing.assert_allclose(decompose(joint, tolerance=1e-12)[0], from_dit(joint[0]), atol=1e-6)


def test_information_of_and_is_the_known_one() -> None:
    joint = joint_of([(x & z, x, z, 0.25) for x in (0, 1) for z in (0, 1)])
    # H(1/4) - 1/2 from either source, nothing of its own, and the rest of H(1/4) from both (Bertschinger et al. 2014).
    shared_part = 2 - 0.75 * np.log2(3) - 0.5
    np.testing.assert_allclose(decompose(joint, tolerance=1e-12)[0], [shared_part, 0, 0, 0.5], atol=1e-6)


def test_information_agrees_with_dit_on_random_tables_and_scikit_learn() -> None:
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(0)
    for _ in range(3):
        joint = rng.dirichlet(np.ones(12)).reshape(1, 2, 2, 3)
        np.testing.assert_allclose(decompose(joint, tolerance=1e-12)[0], from_dit(joint[0]), atol=1e-6)
    counts = rng.integers(1, 30, size=(3, 4)).astype(float)
    theirs = mutual_info_score(None, None, contingency=counts) / np.log(2)
    assert mutual_information(counts / counts.sum()) == pytest.approx(theirs, abs=1e-9)


def test_agreement_of_predictions_by_hand_and_of_two_options_is_kappa() -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(1)
    first, second = rng.random(400) < 0.7, rng.random(400) < 0.6
    table = np.array([(first == second).mean(), first.mean(), second.mean()])
    assert capa(table, num_options=2) == pytest.approx(cohen_kappa_score(first, second), abs=1e-9)
    # Equal in 60 % of cases, 50 % and 40 % right, five options: expected 0.2 + 0.3 / 4.
    assert capa(np.array([0.6, 0.5, 0.4]), num_options=5) == pytest.approx((0.6 - 0.275) / (1 - 0.275))
    assert np.isnan(capa(np.array([1.0, 1.0, 1.0]), num_options=3))


def test_rank_correlation_agrees_with_scipy() -> None:
    values = np.random.default_rng(2).integers(0, 5, size=(6, 16)).astype(float)
    expected = [spearmanr(row[:8], row[8:]).statistic for row in values]
    np.testing.assert_allclose(rank_correlation(values), expected, atol=1e-12)
    assert np.isnan(rank_correlation(np.ones(6)))


def test_pseudo_values_of_pairs_of_seeds_are_the_jackknife_s() -> None:
    kernel = np.random.default_rng(3).random((4, 4))
    kernel = (kernel + kernel.T) / 2
    pairs = kernel[np.triu_indices(4, 1)]
    by_seed = (kernel.sum(axis=1) - np.diag(kernel)) / 3
    found = pseudo_values(by_seed[:, None, None])[:, 0, 0]
    for seed in range(4):
        rest = [other for other in range(4) if other != seed]
        without = np.mean([kernel[a, b] for a in rest for b in rest if a < b])
        assert found[seed] == pytest.approx(4 * pairs.mean() - 3 * without)


def test_neighbours_agree_with_scikit_learn_and_with_chance() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(700, 5))
    theirs = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows, return_distance=False)
    mine = nearest(rows, k=10)
    assert all(set(theirs[row]) - {row} == set(mine[row]) for row in range(700))
    assert shared(mine, mine).tolist() == [1.0] * 700
    turned = 3 * rows @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    table = neighbour_table({"a": rows, "b": turned, "c": rng.normal(size=(700, 8))})
    assert isinstance(table, list) and table[0]["value"] > 0.999
    assert table[1]["chance"] == pytest.approx(10 / 699, abs=1e-6)
    assert table[1]["ci95"][0] <= table[1]["chance"] <= table[1]["ci95"][1]
    assert "not_run" in neighbour_table({"a": rows[:20], "b": rows[:20]})


def test_streamed_similarity_is_that_of_everything_in_bounded_memory() -> None:
    rng = np.random.default_rng(5)
    first = rng.normal(size=(1500, 12)) + 2
    second = first @ rng.normal(size=(12, 20)) + rng.normal(size=(1500, 20))
    features = {"a": first, "b": second, "c": rng.normal(size=(1500, 9))}
    streamed, kept = StreamedSimilarity(keep=300, batch=100), StreamedSimilarity(keep=2000)
    for start in range(0, 1500, 70):
        part = {alias: rows[start : start + 70] for alias, rows in features.items()}
        streamed.add(part)
        kept.add(part)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    for table, tolerance in ((streamed.table(), 0.03), (kept.table(), 1e-4)):
        for entry, pair in zip(table["cka"], pairs, strict=True):
            expected = debiased_linear_cka(features[pair[0]], features[pair[1]])
            assert entry["value"] == pytest.approx(expected, abs=tolerance)
            assert entry["ci95"][0] <= expected <= entry["ci95"][1]
        assert table["mutual_knn"][0]["value"] > 10 * table["mutual_knn"][1]["value"]
    assert all(len(rows) == 300 for rows in streamed._kept.values())
    with pytest.raises(ValueError, match="the same images, got {'a': 2, 'b': 3}"):
        streamed.add({"a": first[:2], "b": first[:3]})
