"""Metrics, bootstrap, overlap, similarity and grades: by hand and against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import false_discovery_control, ttest_1samp
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from analysis.answers import Cell, Rows
from analysis.bootstrap import Resampler
from analysis.draws import Draws
from analysis.errors import AnswersError
from analysis.floor import find_floor
from analysis.leaves import leaf, not_run
from analysis.metric_values import (
    AurocStatistic,
    correctness,
    mean_statistic,
    metric_statistic,
    secondary_statistic,
)
from analysis.overlap import QUANTITIES, overlap_quantities
from analysis.power import detectable_difference, examples_needed
from analysis.similarity import cka_leaf, debiased_hsic, debiased_linear_cka
from analysis.verdict import benjamini_hochberg, grade, holm, mcnemar_exact


def rows_of(
    images: list[int], *, directions: list[str] | None = None, targets: list[str] | None = None
) -> Rows:
    n = len(images)
    return Rows(
        ids=np.array([str(i) for i in range(n)], dtype=object),
        directions=np.array(directions or [""] * n, dtype=object),
        targets=np.array(targets or ["1"] * n, dtype=object),
        images=np.array([str(i) for i in images], dtype=object),
        clusters=np.array(images),
        slices={},
    )


def cell_of(
    score: list[float], *, rank: list[int] | None = None, probability: list[float] | None = None
) -> Cell:
    n = len(score)
    return Cell(
        score=np.array(score, dtype=float),
        probability=np.array(probability or [np.nan] * n, dtype=float),
        logprob=np.full(n, np.nan),
        rank=np.array(rank or [-1] * n),
        correct=np.array([value == 1 for value in score]),
        prediction=np.zeros(n, dtype=np.int64),
    )


ONES = np.ones((1, 2))


def test_weighted_mean_by_hand() -> None:
    statistic = metric_statistic("accuracy", rows_of([0, 0, 1]), [cell_of([1, 0, 1]), cell_of([0, 0, 0.3])])
    np.testing.assert_allclose(statistic.values(ONES), [[2 / 3, 0.1]])
    # Image 1 three times, image 0 never; then image 0 twice and image 1 once: (2 + 0 + 1) / 5.
    np.testing.assert_allclose(
        statistic.values(np.array([[0.0, 3.0], [2.0, 1.0]])), [[1, 0.3], [3 / 5, 0.3 / 5]]
    )


def test_retrieval_is_the_mean_of_its_directions_not_of_its_rows() -> None:
    rows = rows_of([0, 0, 0, 1], directions=["i2t", "t2i", "t2i", "t2i"])
    cell = cell_of([0.0, 1.0, 1.0, 1.0], rank=[20, 1, 1, 1])
    assert metric_statistic("mean_recall", rows, [cell]).values(ONES)[0, 0] == pytest.approx(0.5)


def test_recalls_and_rsum_by_hand() -> None:
    rows = rows_of([0, 1, 0, 1], directions=["i2t", "i2t", "t2i", "t2i"])
    names, statistic = secondary_statistic(
        "mean_recall", rows, cell_of([1, 2 / 3, 1 / 3, 0], rank=[1, 4, 10, 11])
    )
    assert statistic is not None
    found = dict(zip(names, statistic.values(ONES)[0], strict=True))
    expected = {"recall@1_i2t": 0.5, "recall@5_i2t": 1.0, "recall@10_i2t": 1.0}
    expected |= {"recall@1_t2i": 0.0, "recall@5_t2i": 0.0, "recall@10_t2i": 0.5, "rsum": 300.0}
    assert found == pytest.approx(expected)
    with pytest.raises(AnswersError, match="start at 1, found 0"):
        secondary_statistic("mean_recall", rows, cell_of([1, 1, 1, 1], rank=[0, 1, 2, 3]))


@pytest.mark.parametrize("levels", [3, 1000])
def test_weighted_auroc_agrees_with_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.random(200) < 0.4
    probabilities = rng.integers(0, levels, size=(200, 3)) / levels
    clusters = rng.integers(0, 50, size=200)
    weights = rng.integers(0, 4, size=(5, 50)).astype(float)
    mine = AurocStatistic(labels, probabilities, clusters).values(weights)
    for draw in range(5):
        for column in range(3):
            theirs = roc_auc_score(labels, probabilities[:, column], sample_weight=weights[draw][clusters])
            assert mine[draw, column] == pytest.approx(theirs, abs=1e-12)


def test_auroc_of_one_class_is_undefined_and_strange_targets_are_refused() -> None:
    one_class = AurocStatistic(np.array([True, True]), np.array([[0.1], [0.2]]), np.array([0, 1]))
    assert np.isnan(one_class.values(ONES)).all()
    with pytest.raises(AnswersError, match="'hateful'"):
        metric_statistic("auroc", rows_of([0, 1], targets=["1", "hateful"]), [cell_of([0, 0])])


def test_missing_scores_are_refused_and_a_task_s_own_metric_is_the_mean_of_its_scores() -> None:
    with pytest.raises(AnswersError, match="1 answers have no score"):
        metric_statistic("accuracy", rows_of([0, 1]), [cell_of([float("nan"), 1.0])])
    statistic = metric_statistic("closeness", rows_of([0, 1]), [cell_of([1.0, 0.5])])
    assert statistic.values(ONES).tolist() == [[0.75]]


def test_soft_shares_count_as_right_from_one_half() -> None:
    assert correctness("vqa_accuracy", cell_of([0.3, 0.5, 0.6, 1.0])).tolist() == [False, True, True, True]


def test_bootstrap_agrees_with_scipy_where_images_have_one_example() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.random((400, 2)) < [0.7, 0.6]).astype(float)
    rows = rows_of(list(range(400)))
    resampler = Resampler("t", num_clusters=400, num_resamples=6000, seed=0)
    draws = resampler.draw([mean_statistic(scores, rows)]).linear(np.array([[1.0, -1.0]]))
    theirs = scipy_bootstrap(
        (scores[:, 0] - scores[:, 1],),
        np.mean,
        method="percentile",
        n_resamples=6000,
        rng=np.random.default_rng(2),
    )
    assert draws.point[0] == pytest.approx((scores[:, 0] - scores[:, 1]).mean())
    assert draws.interval(0) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    assert draws.standard_error(0) == pytest.approx(theirs.standard_error, rel=0.05)


def test_ten_copies_of_each_example_do_not_narrow_the_interval() -> None:
    scores = (np.random.default_rng(3).random((100, 1)) < 0.5).astype(float)
    once = Resampler("t", num_clusters=100, num_resamples=2000, seed=0)
    single = once.draw([mean_statistic(scores, rows_of(list(range(100))))])
    copied = once.draw(
        [mean_statistic(np.repeat(scores, 10, axis=0), rows_of(list(np.repeat(range(100), 10))))]
    )
    assert single.interval(0) == pytest.approx(copied.interval(0))


def test_equal_columns_have_no_difference_in_any_draw_and_seeds_give_the_same_numbers() -> None:
    column = np.random.default_rng(5).random((60, 1))
    statistic = mean_statistic(np.hstack([column, column]), rows_of(list(np.arange(60) // 3)))
    first, again = (
        Resampler("t", num_clusters=20, num_resamples=500, seed=7).draw([statistic])
        for _ in range(2)
    )
    other = Resampler("t", num_clusters=20, num_resamples=500, seed=8).draw([statistic])
    assert np.abs(first.linear(np.array([[1.0, -1.0]])).samples).max() < 1e-12
    np.testing.assert_array_equal(first.samples, again.samples)
    assert (first.samples != other.samples).any()


def test_seeds_that_disagree_widen_the_interval() -> None:
    rows = rows_of(list(range(200)))
    resampler = Resampler("t", num_clusters=200, num_resamples=500, seed=0)
    columns = [np.full((200, 1), value) for value in (0.4, 0.5, 0.6)]
    draws = resampler.draw([mean_statistic(column, rows) for column in columns])
    assert draws.point[0] == pytest.approx(0.5)
    # Nothing but seeds varies: Student's interval of three numbers, mean 0.5, standard deviation 0.1.
    assert draws.interval(0) == pytest.approx((0.5 - 4.302653 * 0.1 / np.sqrt(3), 0.5 + 4.302653 * 0.1 / np.sqrt(3)))
    assert draws.p_value(0) == pytest.approx(ttest_1samp([0.4, 0.5, 0.6], 0).pvalue)


def test_p_value_of_a_clear_and_of_no_difference() -> None:
    rng = np.random.default_rng(0)
    draws = Draws(np.array([1.0, 0.0]), rng.normal([1.0, 0.0], 0.1, size=(999, 2)))
    assert draws.p_value(0) == pytest.approx(1 / 1000)
    assert draws.p_value(1) == 1.0


def test_leaf_of_an_undefined_number_says_why() -> None:
    draws = Draws(np.array([0.5, np.nan]), np.full((100, 2), [0.5, np.nan]))
    assert leaf(draws, 0, n=3, chance=0.25) == {"value": 0.5, "ci95": [0.5, 0.5], "n": 3, "chance": 0.25}
    assert leaf(draws, 1, n=3, undefined="no pairs") == {"not_run": "no pairs"}


def test_floor_is_the_better_of_empty_and_blind_in_every_draw() -> None:
    empty = Draws(np.array([0.3]), np.array([[0.3], [0.5]]))
    blind = Draws(np.array([0.4]), np.array([[0.4], [0.2]]))
    full = Draws(np.array([0.9]), np.array([[0.9], [0.8]]))
    floor = find_floor(empty, full, blind=blind, by_definition=False)
    assert floor.source == "blind model"
    np.testing.assert_allclose(floor.draws.samples, [[0.4, 0.5], [0.5, 0.3]])
    assert find_floor(empty, full, blind=None, by_definition=True).source == "chance by definition"


def test_overlap_by_hand() -> None:
    # 5 both, 2 first only, 1 second only, 2 neither, of 10.
    found = dict(zip(QUANTITIES, overlap_quantities(np.array([0.5, 0.2, 0.1, 0.2])), strict=True))
    first, second = [1] * 7 + [0] * 3, [1] * 5 + [0] * 2 + [1] + [0] * 2
    assert found["union"] == pytest.approx(0.8)
    assert found["disagreement"] == pytest.approx(0.3)
    assert found["double_fault"] == pytest.approx(0.2)
    assert found["q"] == pytest.approx((0.5 * 0.2 - 0.2 * 0.1) / (0.5 * 0.2 + 0.2 * 0.1))
    assert found["error_consistency"] == pytest.approx(cohen_kappa_score(first, second))


def test_overlap_of_perfect_encoders_is_undefined_not_an_error() -> None:
    found = dict(zip(QUANTITIES, overlap_quantities(np.array([1.0, 0.0, 0.0, 0.0])), strict=True))
    assert found["union"] == 1.0
    assert np.isnan(found["q"]) and np.isnan(found["error_consistency"])


def test_hsic_agrees_with_its_definition_on_gram_matrices() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 5))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(12)
    expected = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / (11 * 10) - 2 / 10 * (one @ k @ m @ one)
    assert debiased_hsic(x, y) == pytest.approx(expected / (12 * 9))


def test_cka_is_one_up_to_rotation_and_zero_for_independent_features() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 8)) + 3
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert debiased_linear_cka(x, 2.5 * x @ rotation) == pytest.approx(1.0)
    wide = [debiased_linear_cka(rng.normal(size=(64, 300)), rng.normal(size=(64, 400))) for _ in range(20)]
    assert abs(np.mean(wide)) < 0.02  # the biased estimator gives about 0.9 here
    found = cka_leaf(x, x + 0.5 * rng.normal(size=x.shape))
    assert found["ci95"][0] < found["value"] < found["ci95"][1] < 1.001
    assert "not_run" in cka_leaf(x, np.ones((120, 2)))
    assert "not_run" in cka_leaf(x[:10], x[:10])
    with pytest.raises(ValueError, match="got 5 and 6"):
        debiased_linear_cka(x[:5], x[:6])


def test_corrections_by_hand_and_scipy() -> None:
    # Sorted .01 .02 .03 .5 times 4 3 2 1: .04 .06 .06 .5 (kept monotone).
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    p_values = [0.001, 0.2, 0.03, 0.04, 0.9]
    assert benjamini_hochberg(p_values) == pytest.approx(list(false_discovery_control(p_values)))
    assert benjamini_hochberg([]) == [] and holm([]) == []


def test_exact_mcnemar_by_hand() -> None:
    assert mcnemar_exact(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar_exact(3, 1) == pytest.approx(2 * (4 + 1) / 2**4)
    assert mcnemar_exact(0, 0) == 1.0


def test_detectable_difference_is_2_8_standard_errors() -> None:
    draws = Draws(np.zeros(1), 0.01 * np.array([[-1.0], [1.0]]) / np.sqrt(2))
    assert draws.standard_error(0) == pytest.approx(0.01)
    assert detectable_difference(draws, 0) == pytest.approx(0.0280159, abs=1e-6)
    # Four times the images halve it.
    assert detectable_difference(draws, 0, times=4) == pytest.approx(0.0140079, abs=1e-6)


def test_examples_needed_by_hand() -> None:
    # Differences with a variance of 0.1: (1.96 + 0.84)^2 * 0.1 / 0.03^2 examples, 33.3 more for an exact test.
    draws = Draws(np.zeros(1), np.sqrt(0.1 / 1000) * np.array([[-1.0], [1.0]]) / np.sqrt(2))
    expected = 2.801585**2 * 0.1 / 0.03**2
    assert examples_needed(draws, 0, n=1000)["examples"] == int(np.ceil(expected))
    assert examples_needed(draws, 0, n=1000, test="exact")["examples"] == int(np.ceil(expected + 1 / 0.03))
    # Three seeds that differ by 5 points each way hide 3 points whatever the number of examples.
    seeds = np.array([[-0.05], [0.0], [0.05]])
    hidden = examples_needed(Draws(np.zeros(1), np.zeros((4, 1)), seeds, np.tile(seeds[:, None], (1, 4, 1))), 0, n=1000)
    assert hidden == {"not_run": "no number of examples finds 3 points with 3 seeds that differ so"}


def one(value: float, low: float, high: float) -> dict[str, object]:
    return {"value": value, "ci95": [low, high], "n": 100}


def test_grades() -> None:
    assert grade(one(0.05, 0.02, 0.08), 0.001, ["1 of at least 3 seeds"]) == "suggestive"
    assert grade(one(0.05, 0.02, 0.08), 0.001, []) == "established"
    assert grade(one(0.05, 0.02, 0.08), 0.06, []) == "undetermined"
    assert grade(one(0.02, -0.01, 0.05), 0.001, []) == "undetermined"
    assert grade(one(0.0, -0.009, 0.009), 1.0, []) == "redundant"
    assert grade(one(-0.05, -0.08, -0.02), 0.001, ["1 of at least 3 seeds"]) == "harmful"
    assert grade(not_run("why"), 1.0, []) == "undetermined"
