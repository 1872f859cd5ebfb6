"""GQA of the world: questions with programs, entailment and groups, choices, and scene graphs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.world.files import write_json, write_pictures
from experiments.world.programs import ProgramQuestion, draw_program_questions
from experiments.world.scene import CANVAS, OPEN, Scene, draw_scene, relation

SPLITS = ("train", "val", "testdev")


def gqa_scene(seed: int, split: int, index: int) -> Scene:
    """The picture `index` of a split."""
    return draw_scene(np.random.default_rng([seed, 4, split, index]), OPEN)


def gqa_questions(seed: int, split: int, index: int, count: int) -> list[ProgramQuestion]:
    """A picture's balanced questions."""
    return draw_program_questions(np.random.default_rng([seed, 15, split, index]), gqa_scene(seed, split, index), count)


def write_gqa(folder: Path, sizes: Mapping[str, int], *, seed: int, questions: int, pool: Executor) -> None:
    """`questions1.2/`, `eval/*_choices.json`, `*_sceneGraphs.json`, `images/`, and what decides each question."""
    factors: dict[str, dict[str, str]] = {}
    for number, split in enumerate(SPLITS):
        records: dict[str, dict[str, Any]] = {}
        choices: dict[str, dict[str, list[str]]] = {}
        graphs, named = {}, []
        for k in range(sizes[split]):
            scene, image = gqa_scene(seed, number, k), f"{2_000_000 + 100_000 * number + k}"
            named.append((f"images/{image}.jpg", scene))
            graphs[image] = _scene_graph(scene)
            for question in gqa_questions(seed, number, k, questions):
                _add(records, choices, factors, question, image, split_number=number)
        write_pictures(folder, named, pool=pool)
        balanced = {key: record for key, record in records.items() if record["isBalanced"]}
        write_json(folder / f"questions1.2/{split}_all_questions.json", records)
        write_json(folder / f"questions1.2/{split}_balanced_questions.json", balanced)
        if split != "testdev":
            write_json(folder / f"eval/{split}_choices.json", choices)
            write_json(folder / f"{split}_sceneGraphs.json", graphs)
    write_json(folder / "factors.json", factors)


def _add(
    records: dict[str, dict[str, Any]],
    choices: dict[str, dict[str, list[str]]],
    factors: dict[str, dict[str, str]],
    question: ProgramQuestion,
    image: str,
    *,
    split_number: int,
    balanced: bool = True,
) -> str:
    key = f"0{split_number + 1}{len(records):06d}"
    records[key] = {}
    entailed = [
        _add(records, choices, factors, other, image, split_number=split_number, balanced=False)
        for other in question.entails
    ]
    records[key] = {
        "semantic": list(question.program),
        "entailed": [key, *entailed],
        "equivalent": [key],
        "question": question.text,
        "imageId": image,
        "isBalanced": balanced,
        "groups": {"global": question.group, "local": question.local_group},
        "answer": question.answer,
        "semanticStr": "->".join(f"{s['operation']}: {s['argument']} {s['dependencies']}" for s in question.program),
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {
            "detailed": question.detailed,
            "semantic": question.semantic,
            "structural": question.structural,
        },
        "fullAnswer": question.full_answer,
    }
    choices[key] = {"valid": list(question.valid), "plausible": list(question.valid)}
    factors[key] = {"factor": question.factor, "facts": str(question.facts)}
    return key


def _scene_graph(scene: Scene) -> dict[str, Any]:
    objects = {}
    for k, item in enumerate(scene.items):
        relations = [
            {"name": how, "object": str(other)}
            for other, second in enumerate(scene.items)
            if other != k and (how := relation(item, second))
        ]
        objects[str(k)] = {
            "name": item.shape,
            "attributes": [item.size, item.colour, item.texture],
            "relations": relations,
            "x": int(item.x - item.radius),
            "y": int(item.y - item.radius),
            "w": int(2 * item.radius),
            "h": int(2 * item.radius),
        }
    return {"width": CANVAS, "height": CANVAS, "objects": objects}
