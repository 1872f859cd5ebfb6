"""Retrieval: the specification's example, the tie rule, folds, exact chance, answers in both directions,
re-ranking.
"""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import official_files as official
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import encoders.torchvision_compat  # noqa: F401  (torchmetrics imports torchvision)
from tasks import load_task
from tasks.base import Example
from tasks.errors import TaskError
from tasks.retrieval_answers import Gallery, rerank, retrieval_answers, shortlist
from tasks.retrieval_metrics import (
    CUTOFFS,
    Recalls,
    chance_mean_recall,
    fold_recalls,
    query_score,
    recalls,
    retrieval_ranks,
)

SIMILARITY = torch.tensor(
    [[0.9, 0.2, 0.3, 0.4, 0.1, 0.0], [0.8, 0.1, 0.5, 0.6, 0.2, 0.3], [0.1, 0.7, 0.2, 0.0, 0.3, 0.6]]
)
OWNER = torch.tensor([0, 0, 1, 1, 2, 2])


def captions(owner: list[int]) -> list[Example]:
    return [Example(id=f"c{k}", image=f"{image}.jpg", text=f"caption {k}") for k, image in enumerate(owner)]


def test_specification_example() -> None:
    found = recalls(retrieval_ranks(SIMILARITY, OWNER))
    assert round(100 * found.i2t[1], 2) == 33.33
    assert (found.i2t[5], found.t2i[5]) == (1.0, 1.0)
    assert round(100 * found.t2i[1], 2) == 83.33
    assert round(found.rsum, 2) == 516.67
    assert found.mean == pytest.approx(found.rsum / 600)


def test_ties_never_favour_the_model() -> None:
    ranks = retrieval_ranks(torch.zeros(3, 6), OWNER)
    assert ranks.i2t.tolist() == [5, 5, 5]  # four foreign captions before the own ones
    assert ranks.t2i.tolist() == [3] * 6
    ranks = retrieval_ranks(torch.full((3, 6), torch.nan), OWNER)
    assert ranks.i2t.tolist() == [5, 5, 5] and ranks.t2i.tolist() == [3] * 6
    broken = SIMILARITY.clone()
    broken[0, 0] = torch.nan  # the own item that was first
    assert retrieval_ranks(broken, OWNER).i2t[0] == 3  # .2 is left as its best, behind .3 and .4
    assert retrieval_ranks(broken, OWNER).t2i[0] == 3


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ranks_by_enumeration_in_any_order_and_block(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    owner = data.draw(st.permutations([image for image, count in enumerate(counts) for _ in range(count)]))
    levels = st.sampled_from([0.0, 0.5, 1.0, -1.0])
    rows = [[data.draw(levels) for _ in owner] for _ in counts]
    ranks = retrieval_ranks(torch.tensor(rows), torch.tensor(owner))
    for column, image in enumerate(owner):
        rivals = sum(
            rows[other][column] >= rows[image][column] for other in range(len(counts)) if other != image
        )
        assert ranks.t2i[column] == 1 + rivals
    for image in range(len(counts)):
        best = max(rows[image][column] for column, own in enumerate(owner) if own == image)
        rivals = sum(rows[image][column] >= best for column, own in enumerate(owner) if own != image)
        assert ranks.i2t[image] == 1 + rivals


def test_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    owner = torch.arange(20) % 7
    whole = retrieval_ranks(similarity, owner)
    monkeypatch.setattr("tasks.retrieval_metrics.BLOCK", 2)
    assert all(torch.equal(*pair) for pair in zip(whole, retrieval_ranks(similarity, owner), strict=True))


def _hit_rate(scores: Tensor, own: Tensor, k: int) -> float:
    from torchmetrics.retrieval import RetrievalHitRate

    queries = torch.arange(len(scores))[:, None].expand_as(scores).reshape(-1)
    return float(RetrievalHitRate(top_k=k)(scores.reshape(-1), own.reshape(-1), indexes=queries))


def test_agrees_with_torchmetrics_hit_rate() -> None:
    generator = torch.Generator().manual_seed(1)
    owner = torch.arange(15).repeat_interleave(3)
    similarity = torch.randn(15, 45, generator=generator)
    similarity[owner, torch.arange(45)] += 1
    found, own = recalls(retrieval_ranks(similarity, owner)), owner[None] == torch.arange(15)[:, None]
    for k in CUTOFFS:
        assert found.i2t[k] == pytest.approx(_hit_rate(similarity, own, k), abs=1e-6)
        assert found.t2i[k] == pytest.approx(_hit_rate(similarity.T, own.T, k), abs=1e-6)


def test_folds_are_consecutive_and_take_the_first_captions() -> None:
    generator = torch.Generator().manual_seed(2)
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4])  # the fifth image fills no fold
    similarity = torch.randn(5, 12, generator=generator)
    first = recalls(retrieval_ranks(similarity[:2][:, [0, 1, 3, 4]], torch.tensor([0, 0, 1, 1])))
    second = recalls(retrieval_ranks(similarity[2:4][:, [5, 6, 8, 9]], torch.tensor([0, 0, 1, 1])))
    found = fold_recalls(similarity, owner, size=2, captions=2)
    assert found.i2t[1] == pytest.approx((first.i2t[1] + second.i2t[1]) / 2)
    assert found.rsum == pytest.approx((first.rsum + second.rsum) / 2)
    with pytest.raises(TaskError, match="does not fit"):
        fold_recalls(similarity, owner, size=6, captions=2)
    with pytest.raises(TaskError, match="one image has 2"):
        fold_recalls(similarity, owner, size=2, captions=3)


def test_chance_is_the_mean_over_all_rankings() -> None:
    counts = [1, 2, 1]
    owner = [0, 1, 1, 2]
    i2t = {k: 0.0 for k in CUTOFFS}
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        for image in range(3):
            best = min(order.index(column) for column in range(4) if owner[column] == image)
            for k in CUTOFFS:
                i2t[k] += (best < k) / (3 * len(orders))
    expected = Recalls(i2t=i2t, t2i={1: 1 / 3, 5: 1.0, 10: 1.0})
    assert chance_mean_recall(counts) == pytest.approx(expected.mean)
    assert chance_mean_recall([5] * 1000) == pytest.approx(
        (sum(k / 1000 for k in CUTOFFS) + sum(1 - _none_of(5000, 5, k) for k in CUTOFFS)) / 6
    )


def _none_of(total: int, own: int, k: int) -> float:
    left = 1.0
    for drawn in range(k):
        left *= (total - own - drawn) / (total - drawn)
    return left


def test_answers_in_both_directions() -> None:
    examples = captions(OWNER.tolist())
    answers = retrieval_answers(SIMILARITY, examples, scale=2.0)
    assert [answer.direction for answer in answers] == ["i2t"] * 3 + ["t2i"] * 6
    first, second = answers[0], answers[1]
    assert (first.id, first.image, first.prediction, first.target) == ("0.jpg", "0.jpg", "c0", "c0 c1")
    assert (first.rank, first.score) == (1, 1.0)
    assert (second.prediction, second.rank, second.score) == ("c0", 2, pytest.approx(2 / 3))
    assert second.score == query_score(2)
    caption = answers[4]
    assert (caption.id, caption.prediction, caption.target, caption.rank) == ("c1", "2.jpg", "0.jpg", 2)
    assert caption.logprob == pytest.approx(torch.log_softmax(2 * SIMILARITY[:, 1], 0)[0].item(), abs=1e-6)
    own = torch.softmax(2 * SIMILARITY[1], 0)[2:4].sum().log().item()
    assert second.logprob == pytest.approx(own, abs=1e-6)
    task = load_task("flickr30k")
    assert task.value(answers) == pytest.approx(recalls(retrieval_ranks(SIMILARITY, OWNER)).mean)
    assert task.secondary(answers)["rsum"] == pytest.approx(516.6667, abs=1e-3)
    assert task.secondary(answers)["recall@1_i2t"] == pytest.approx(1 / 3)
    with pytest.raises(TaskError, match="t2i"):
        task.value(answers[:3])


def test_a_tied_prediction_is_the_rival() -> None:
    answers = retrieval_answers(torch.zeros(2, 2), captions([0, 1]))
    assert [answer.prediction for answer in answers] == ["c1", "c0", "1.jpg", "0.jpg"]
    assert all(answer.logprob is None for answer in answers)


def test_slices_of_an_image_are_those_its_captions_share() -> None:
    examples = [
        Example(id="a", image="0.jpg", text="", slices={"domain": "x", "factor": "colour"}),
        Example(id="b", image="0.jpg", text="", slices={"domain": "x", "factor": "shape"}),
    ]
    answers = retrieval_answers(torch.ones(1, 2), examples)
    assert dict(answers[0].slices) == {"domain": "x"}
    assert dict(answers[2].slices) == {"domain": "x", "factor": "shape"}


def test_rerank_orders_the_shortlist_only() -> None:
    examples = captions(OWNER.tolist())
    listed = shortlist(SIMILARITY, examples, size=2)
    assert listed.i2t.tolist() == [[0, 3], [0, 3], [1, 5]]
    assert listed.t2i[:, 0].tolist() == [0, 2, 1, 1, 2, 2]
    pairs = listed.pairs()
    assert pairs.tolist() == sorted(set(map(tuple, pairs.tolist())) and pairs.tolist())
    belongs = OWNER[pairs[:, 1]] == pairs[:, 0]
    perfect = rerank(SIMILARITY, examples, listed, belongs.float())
    assert [answer.rank for answer in perfect[:3]] == [1, 1, 1]
    assert [answer.prediction for answer in perfect[:3]] == ["c0", "c3", "c5"]
    assert [answer.rank for answer in perfect[3:]] == [1] * 6
    worst = rerank(SIMILARITY, examples, listed, -belongs.float())
    assert [answer.rank for answer in worst[:3]] == [2, 2, 2]
    ties = rerank(SIMILARITY, examples, listed, torch.zeros(len(pairs)))
    assert [answer.rank for answer in ties] == [2] * 9
    assert ties[0].prediction == "c3"
    with pytest.raises(TaskError, match="match logits"):
        rerank(SIMILARITY, examples, listed, torch.zeros(1))


def test_rerank_keeps_the_contrast_rank_of_what_is_not_listed() -> None:
    examples = captions(OWNER.tolist())
    listed = shortlist(SIMILARITY, examples, size=1)
    answers = rerank(SIMILARITY, examples, listed, torch.ones(len(listed.pairs())))
    contrast = retrieval_answers(SIMILARITY, examples)
    assert [answer.rank for answer in answers] == [answer.rank for answer in contrast]
    assert [answer.prediction for answer in answers] == [answer.prediction for answer in contrast]
    with pytest.raises(TaskError, match="shortlist of 0"):
        shortlist(SIMILARITY, examples, size=0)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 7))
@settings(max_examples=25)
def test_rerank_is_the_rule_query_by_query(seed: int, size: int) -> None:
    """Few values, so that ties abound; some are not numbers, and count against own items."""
    generator = torch.Generator().manual_seed(seed)
    owner = [0, 1, 2, 3, *torch.randint(0, 4, (6,), generator=generator).tolist()]
    similarity = torch.randint(0, 4, (4, 10), generator=generator).float()
    examples = captions(owner)
    listed = shortlist(similarity, examples, size=size)
    pairs = listed.pairs()
    logits = torch.randint(0, 3, (len(pairs),), generator=generator).float()
    logits[torch.rand(len(pairs), generator=generator) < 0.2] = torch.nan
    matched = {(image, caption): logits[k].item() for k, (image, caption) in enumerate(pairs.tolist())}
    answers = rerank(similarity, examples, listed, logits)
    contrast = retrieval_answers(similarity, examples)
    queries = [[(image, caption) for caption in row] for image, row in enumerate(listed.i2t.tolist())]
    queries += [[(image, caption) for image in row] for caption, row in enumerate(listed.t2i.tolist())]
    assert sorted({pair for query in queries for pair in query}) == [tuple(pair) for pair in pairs.tolist()]
    for query, answer, before in zip(queries, answers, contrast, strict=True):
        own = [matched[pair] for pair in query if owner[pair[1]] == pair[0]]
        rivals = [matched[pair] for pair in query if owner[pair[1]] != pair[0]]
        best = max((value for value in own if value == value), default=-torch.inf)
        assert answer.rank == (1 + sum(not value < best for value in rivals) if own else before.rank)


def test_rerank_holds_no_python_object_for_every_pair() -> None:
    """COCO's 5,000 captions by 256 are 1.28 million pairs."""
    examples = captions([k // 5 for k in range(500)])
    similarity = torch.randn(100, 500, generator=torch.Generator().manual_seed(0))
    listed = shortlist(similarity, examples, size=100)
    logits = torch.randn(len(listed.pairs()), generator=torch.Generator().manual_seed(1))
    assert len(logits) == 50_000
    tracemalloc.start()
    rerank(similarity, examples, listed, logits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000  # of Python's own memory; 80 bytes a pair


def test_a_tied_shortlist_leaves_own_items_out() -> None:
    listed = shortlist(torch.zeros(3, 6), captions(OWNER.tolist()), size=4)
    assert listed.i2t.tolist() == [[2, 3, 4, 5], [0, 1, 4, 5], [0, 1, 2, 3]]


def test_gallery_and_its_checks() -> None:
    gallery = Gallery.of(captions([0, 1, 0]))
    assert (gallery.images, gallery.owner.tolist(), gallery.own_captions()) == (
        ["0.jpg", "1.jpg"],
        [0, 1, 0],
        [[0, 2], [1]],
    )
    with pytest.raises(TaskError, match="shape"):
        retrieval_answers(torch.zeros(3, 3), captions([0, 1, 0]))
    with pytest.raises(TaskError, match="at least one caption"):
        Gallery.of([])
    with pytest.raises(TaskError, match="has no caption"):
        retrieval_ranks(torch.zeros(2, 1), torch.tensor([0]))


def test_baseline_of_a_read_split(tmp_path: Path) -> None:
    official.write_json(tmp_path / "dataset_coco.json", official.coco())
    task = load_task("coco")
    train, test = task.read(tmp_path, "train"), task.read(tmp_path, "test")
    found = task.baselines(train, test)
    i2t_1 = (7 / 12 + 5 / 12) / 2
    i2t_5 = 1 - (_none_of(12, 7, 5) + _none_of(12, 5, 5)) / 2
    assert found.chance == found.majority == pytest.approx((0.5 + 1 + 1 + i2t_1 + i2t_5 + 1) / 6)
