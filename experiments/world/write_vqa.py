"""VQAv2 of the world: question and annotation files in the official shape, ten answers a question."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.world.files import write_json, write_pictures
from experiments.world.questions import Question, annotate, draw_questions, majority_answer
from experiments.world.scene import OPEN, Scene, draw_scene

STYLE = replace(OPEN, word=0.4)
SPLITS = ("train2014", "val2014")


def vqa_scene(seed: int, split: int, index: int) -> Scene:
    """The picture `index` of a split."""
    return draw_scene(np.random.default_rng([seed, 3, split, index]), STYLE)


def vqa_questions(seed: int, split: int, index: int, count: int) -> list[tuple[Question, list[tuple[str, str]]]]:
    """A picture's questions, each with its ten (answer, confidence) pairs."""
    rng = np.random.default_rng([seed, 14, split, index])
    return [
        (question, annotate(rng, question)) for question in draw_questions(rng, vqa_scene(seed, split, index), count)
    ]


def write_vqa(folder: Path, sizes: Mapping[str, int], *, seed: int, questions: int, pool: Executor) -> None:
    """`v2_*_questions.json`, `v2_*_annotations.json`, the COCO folders, and what decides each question."""
    factors: dict[str, dict[str, str]] = {}
    for number, split in enumerate(SPLITS):
        asked: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        named = []
        for k in range(sizes[split]):
            image_id = 1_000_000 * (number + 1) + k
            named.append((f"{split}/COCO_{split}_{image_id:012d}.jpg", vqa_scene(seed, number, k)))
            for n, (question, answers) in enumerate(vqa_questions(seed, number, k, questions)):
                question_id = image_id * 1000 + n
                asked.append({"image_id": image_id, "question": question.text, "question_id": question_id})
                annotations.append(_annotation(question, answers, image_id, question_id))
                factors[str(question_id)] = {
                    "factor": question.factor,
                    "kind": question.kind,
                    "facts": str(question.facts),
                }
        head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": split}
        write_pictures(folder, named, pool=pool)
        write_json(
            folder / f"v2_OpenEnded_mscoco_{split}_questions.json",
            {**head, "task_type": "Open-Ended", "questions": asked},
        )
        write_json(folder / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": annotations})
    write_json(folder / "factors.json", factors)


def _annotation(question: Question, answers: list[tuple[str, str]], image_id: int, question_id: int) -> dict[str, Any]:
    listed = [
        {"answer": answer, "answer_confidence": confidence, "answer_id": k}
        for k, (answer, confidence) in enumerate(answers, start=1)
    ]
    return {
        "question_type": question.question_type,
        "multiple_choice_answer": majority_answer([a for a, _ in answers]),
        "answers": listed,
        "image_id": image_id,
        "answer_type": question.answer_type,
        "question_id": question_id,
    }
