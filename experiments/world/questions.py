"""Questions in the style of VQAv2 about a scene, answered by ten annotators who sometimes disagree.

Handed a generator and a `Scene`, hands on `Question`s of several types. Texts are drawn so that they tell nothing about
the answer beyond its type's prior: yes and no are equally likely for every wording, attributes are uniform.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.world.scene import COLOURS, INVERSE, SHAPES, TEXTURES, Scene, relation, unique_by

AnswerType = Literal["yes/no", "number", "other"]
SYNONYMS = {
    "purple": "violet",
    "orange": "amber",
    "circle": "disc",
    "ring": "donut",
    "cross": "plus",
    "square": "box",
    "striped": "stripes",
    "dotted": "dots",
    "checked": "squares",
    "plain": "none",
    "paper": "noise",
    "wood": "planks",
    "water": "waves",
    "fog": "mist",
    "leaves": "leaf",
    "tiles": "tile",
}
VALUES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the true answer, and what decides it: `factor`, and `facts`, how many facts are needed."""

    text: str
    answer: str
    kind: str
    question_type: str
    answer_type: AnswerType
    factor: str
    facts: int


def draw_questions(rng: np.random.Generator, scene: Scene, count: int) -> list[Question]:
    """Up to `count` different questions; kinds that the scene does not permit are left out."""
    asked: dict[str, Question] = {}
    kinds = [KINDS[k] for k in rng.permutation(len(KINDS))]
    for kind in kinds * 2:
        question = kind(rng, scene)
        if question is not None and len(asked) < count:
            asked.setdefault(question.text, question)
    return list(asked.values())


def annotate(rng: np.random.Generator, question: Question) -> list[tuple[str, str]]:
    """Ten (answer, confidence) pairs: mostly the truth; synonyms, miscounts and slips as people make them."""
    pairs = []
    for _ in range(10):
        answer, confidence = question.answer, "yes"
        slip = rng.random()
        if question.answer_type == "number":
            if slip < 0.03 * int(answer):
                answer, confidence = str(max(0, int(answer) + (1 if rng.random() < 0.5 else -1))), "maybe"
        elif question.answer_type == "yes/no":
            if slip < 0.04:
                answer, confidence = ("no" if answer == "yes" else "yes"), "maybe"
        elif slip < 0.15 and answer in SYNONYMS:
            answer = SYNONYMS[answer]
        elif slip > 0.98 and question.factor in VALUES:
            options = VALUES[question.factor]
            answer, confidence = options[rng.integers(len(options))], "no"
        pairs.append((answer, confidence))
    return pairs


def majority_answer(answers: list[str]) -> str:
    """The most frequent answer, the first of them when several are."""
    return Counter(answers).most_common(1)[0][0]


def _ask_attribute(
    factor: str, key: str, wording: str, prefix: str
) -> Callable[[np.random.Generator, Scene], Question | None]:
    def ask(rng: np.random.Generator, scene: Scene) -> Question | None:
        items = unique_by(scene, key)
        if not items:
            return None
        item = items[rng.integers(len(items))]
        text = wording.format(item.attribute(key))
        facts = 1 if len(scene.items) == 1 else 2
        return Question(text, item.attribute(factor), factor, prefix, "other", factor, facts)

    return ask


def _count(rng: np.random.Generator, scene: Scene) -> Question:
    if rng.random() < 0.5:
        return Question("how many things are there?", str(len(scene.items)), "count", "how many", "number", "count", 1)
    factor = ("colour", "shape")[rng.integers(2)]
    value = VALUES[factor][rng.integers(len(VALUES[factor]))]
    if rng.random() < 0.7:
        value = scene.items[rng.integers(len(scene.items))].attribute(factor)
    number = sum(item.attribute(factor) == value for item in scene.items)
    noun = f"{value} things" if factor == "colour" else f"{plural(value)}"
    return Question(f"how many {noun} are there?", str(number), "count", "how many", "number", "count", 2)


def plural(shape: str) -> str:
    """`crosses`, `stars`."""
    return shape + ("es" if shape.endswith("s") else "s")


def _exists(rng: np.random.Generator, scene: Scene) -> Question | None:
    wanted = bool(rng.integers(2))
    if rng.random() < 0.6:
        factor = ("colour", "shape", "texture")[rng.integers(3)]
        present = {item.attribute(factor) for item in scene.items}
        pool = [value for value in VALUES[factor] if (value in present) == wanted]
        if not pool:
            return None
        value = pool[rng.integers(len(pool))]
        noun = value if factor == "shape" else f"{value} thing"
        return _yes_no(f"is there a {noun}?", wanted, "existence", "is there a", factor, 1)
    pairs = {(item.colour, item.shape) for item in scene.items}
    while True:
        pair = (tuple(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))])
        if (pair in pairs) == wanted:
            return _yes_no(f"is there a {pair[0]} {pair[1]}?", wanted, "existence", "is there a", "colour+shape", 2)


def _yes_no(text: str, wanted: bool, kind: str, prefix: str, factor: str, facts: int) -> Question:
    return Question(text, "yes" if wanted else "no", kind, prefix, "yes/no", factor, facts)


def _relation(rng: np.random.Generator, scene: Scene) -> Question | None:
    items = unique_by(scene, "shape")
    if len(items) < 2:
        return None
    first, second = (items[k] for k in rng.permutation(len(items))[:2])
    how = relation(first, second)
    if not how:
        return None
    wanted = bool(rng.integers(2))
    said = how if wanted else INVERSE[how]
    return _yes_no(f"is the {first.shape} {said} the {second.shape}?", wanted, "relation", "is the", "position", 2)


def _compare(rng: np.random.Generator, scene: Scene) -> Question | None:
    items = unique_by(scene, "shape")
    pairs = [(a, b) for a in items for b in items if a.size != b.size]
    if not pairs:
        return None
    first, second = pairs[rng.integers(len(pairs))]
    wanted = first.size == "large"
    return _yes_no(f"is the {first.shape} bigger than the {second.shape}?", wanted, "comparison", "is the", "size", 2)


def _read(rng: np.random.Generator, scene: Scene) -> Question | None:
    if not scene.top_text:
        return None
    return Question("what word is written?", scene.top_text, "reading", "what", "other", "text", 1)


def _background(rng: np.random.Generator, scene: Scene) -> Question:
    return Question("what is behind the things?", scene.background, "background", "what is", "other", "background", 1)


KINDS: tuple[Callable[[np.random.Generator, Scene], Question | None], ...] = (
    _ask_attribute("colour", "shape", "what color is the {}?", "what color is the"),
    _ask_attribute("shape", "colour", "what shape is the {} thing?", "what shape is the"),
    _ask_attribute("texture", "shape", "what pattern is on the {}?", "what pattern"),
    _count,
    _exists,
    _relation,
    _compare,
    _read,
    _background,
)
