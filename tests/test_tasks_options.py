"""Options of tasks: what is refused, and in which words."""

from __future__ import annotations

import pytest

from tasks import load_task
from tasks.errors import TaskError


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("vqa", {"min_cuont": 3}, "task 'vqa' has no option 'min_cuont': did you mean 'min_count'"),
        ("vqa", {"min_count": "nine"}, "vqa.min_count='nine' must be int"),
        ("vqa", {"min_count": True}, "vqa.min_count=True must be int"),
        ("vqa", {"vocabulary_file": 3}, "vqa.vocabulary_file=3 must be str or None"),
        ("coco", {"negatives": "alternat"}, "must be 'both' or 'alternate' .nearest: 'alternate'"),
        ("coco", {"match_weight": None}, "coco.match_weight=None must be float"),
    ],
)
def test_options_are_refused_by_name(task: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        load_task(task, **options)


def test_options_are_taken() -> None:
    made = load_task("coco", match_weight=1, negatives="alternate", match_share=0.5)
    assert made == load_task("coco", match_weight=1.0, negatives="alternate", match_share=0.5)
    assert load_task("gqa", vocabulary_file=None) == load_task("gqa")
