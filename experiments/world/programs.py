"""Questions in the style of GQA: each with the functional program that answers it, its type, group and choices.

Handed a generator and a `Scene`, hands on `ProgramQuestion`s; an open question about an attribute entails the yes/no
question that states its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.world.questions import VALUES
from experiments.world.scene import INVERSE, Item, Scene, relation, unique_by

NAMES = {"colour": "color", "shape": "shape", "texture": "pattern"}
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class ProgramQuestion:
    """One question; `entails` are further questions whose answers follow from this one's."""

    text: str
    answer: str
    full_answer: str
    structural: str
    semantic: str
    detailed: str
    group: str | None
    local_group: str
    program: tuple[dict[str, Any], ...]
    valid: tuple[str, ...]
    factor: str
    facts: int
    entails: tuple[ProgramQuestion, ...] = field(default=())


def draw_program_questions(rng: np.random.Generator, scene: Scene, count: int) -> list[ProgramQuestion]:
    """Up to `count` different questions of different kinds."""
    asked: dict[str, ProgramQuestion] = {}
    for kind in [KINDS[k] for k in rng.permutation(len(KINDS))] * 2:
        question = kind(rng, scene)
        if question is not None and len(asked) < count:
            asked.setdefault(question.text, question)
    return list(asked.values())


def step(operation: str, argument: str, *dependencies: int) -> dict[str, Any]:
    """One operation of a functional program."""
    return {"operation": operation, "argument": argument, "dependencies": list(dependencies)}


def _query(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    factor = ("colour", "texture")[rng.integers(2)]
    items = unique_by(scene, "shape")
    if not items:
        return None
    item = items[rng.integers(len(items))]
    name, value = NAMES[factor], item.attribute(factor)
    verify = _state(item, factor, value, "yes")
    return ProgramQuestion(
        f"what {name} is the {item.shape}?",
        value,
        f"the {item.shape} is {value}.",
        "query",
        "attr",
        f"{name}Query",
        name,
        f"10-{item.shape}_{name}",
        (step("select", f"{item.shape} (0)"), step("query", name, 0)),
        VALUES[factor],
        factor,
        1 if len(scene.items) == 1 else 2,
        (verify,),
    )


def _query_object(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    items = unique_by(scene, "colour")
    if not items:
        return None
    item = items[rng.integers(len(items))]
    program = (step("select", "thing (0)"), step("filter color", item.colour, 0), step("query", "name", 1))
    return ProgramQuestion(
        f"what is the {item.colour} thing?",
        item.shape,
        f"the {item.colour} thing is a {item.shape}.",
        "query",
        "obj",
        "categoryThat",
        "shape",
        f"11-{item.colour}_name",
        program,
        VALUES["shape"],
        "shape",
        2,
    )


def _query_relation(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    if len(scene.items) != 2 or scene.items[0].shape == scene.items[1].shape:
        return None
    order = rng.permutation(2)
    asked, anchor = scene.items[order[0]], scene.items[order[1]]
    how = relation(asked, anchor)
    if not how:
        return None
    factor = ("colour", "shape")[rng.integers(2)]
    name, value = NAMES[factor], asked.attribute(factor)
    valid = tuple(v for v in VALUES[factor])
    program = (
        step("select", f"{anchor.shape} (1)"),
        step("relate", f"thing,{how},s (0)", 0),
        step("query", name, 1),
    )
    return ProgramQuestion(
        f"what {name} is the thing {how} the {anchor.shape}?",
        value,
        f"it is {value}.",
        "query",
        "rel",
        "relS" if factor == "shape" else f"{name}RelQuery",
        name,
        f"12-{anchor.shape}_{how}_{name}",
        program,
        valid,
        factor,
        2,
    )


def _state(item: Item, factor: str, said: str, answer: str) -> ProgramQuestion:
    program = (step("select", f"{item.shape} (0)"), step(f"verify {NAMES[factor]}", said, 0))
    full = f"{answer}, the {item.shape} is {item.attribute(factor)}."
    return ProgramQuestion(
        f"is the {item.shape} {said}?",
        answer,
        full,
        "verify",
        "attr",
        f"verify{NAMES[factor].title()}",
        None,
        f"20-{item.shape}_{said}",
        program,
        YES_NO,
        factor,
        2,
    )


def _verify(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    items = unique_by(scene, "shape")
    if not items:
        return None
    item, factor = items[rng.integers(len(items))], ("colour", "texture")[rng.integers(2)]
    if rng.random() < 0.5:
        return _state(item, factor, item.attribute(factor), "yes")
    others = [value for value in VALUES[factor] if value != item.attribute(factor)]
    return _state(item, factor, others[rng.integers(len(others))], "no")


def _choose(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    items = unique_by(scene, "shape")
    if not items:
        return None
    item, factor = items[rng.integers(len(items))], ("colour", "texture")[rng.integers(2)]
    value = item.attribute(factor)
    others = [option for option in VALUES[factor] if option != value]
    pair = [value, others[rng.integers(len(others))]]
    first, second = (pair[k] for k in rng.permutation(2))
    program = (step("select", f"{item.shape} (0)"), step(f"choose {NAMES[factor]}", f"{first}|{second}", 0))
    return ProgramQuestion(
        f"is the {item.shape} {first} or {second}?",
        value,
        f"the {item.shape} is {value}.",
        "choose",
        "attr",
        f"choose{NAMES[factor].title()}",
        None,
        f"30-{item.shape}_{NAMES[factor]}",
        program,
        (first, second),
        factor,
        2,
    )


def _both(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    wanted = bool(rng.integers(2))
    shapes, colours = ({item.attribute(f) for item in scene.items} for f in ("shape", "colour"))
    shape = _pick(rng, VALUES["shape"], shapes, True)
    colour = _pick(rng, VALUES["colour"], colours, True)
    if not wanted and rng.random() < 0.5:
        shape = _pick(rng, VALUES["shape"], shapes, False)
    elif not wanted:
        colour = _pick(rng, VALUES["colour"], colours, False)
    answer = "yes" if wanted else "no"
    program = (
        step("select", f"{shape} (0)"),
        step("exist", "?", 0),
        step("select", "thing (1)"),
        step("filter color", colour, 2),
        step("exist", "?", 3),
        step("and", "", 1, 4),
    )
    return ProgramQuestion(
        f"is there a {shape} and a {colour} thing?",
        answer,
        f"{answer}.",
        "logical",
        "obj",
        "existAnd",
        None,
        f"40-{shape}_{colour}",
        program,
        YES_NO,
        "colour+shape",
        2,
    )


def _pick(rng: np.random.Generator, values: tuple[str, ...], present: set[str], wanted: bool) -> str:
    pool = [value for value in values if (value in present) == wanted]
    return pool[rng.integers(len(pool))]


def _verify_relation(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    items = unique_by(scene, "shape")
    if len(items) < 2:
        return None
    first, second = (items[k] for k in rng.permutation(len(items))[:2])
    how = relation(first, second)
    if not how:
        return None
    answer = YES_NO[rng.integers(2)]
    said = how if answer == "yes" else INVERSE[how]
    program = (step("select", f"{second.shape} (0)"), step("verify rel", f"{first.shape},{said},s (1)", 0))
    return ProgramQuestion(
        f"is the {first.shape} {said} the {second.shape}?",
        answer,
        f"{answer}.",
        "verify",
        "rel",
        "relVerify",
        None,
        f"50-{first.shape}_{second.shape}",
        program,
        YES_NO,
        "position",
        2,
    )


def _same(rng: np.random.Generator, scene: Scene) -> ProgramQuestion | None:
    items = unique_by(scene, "shape")
    if len(items) < 2:
        return None
    first, second = (items[k] for k in rng.permutation(len(items))[:2])
    same = first.colour == second.colour
    if not same and rng.random() > 1 / (len(VALUES["colour"]) - 1):
        return None
    answer = "yes" if same else "no"
    program = (
        step("select", f"{first.shape} (0)"),
        step("select", f"{second.shape} (1)"),
        step("same color", "", 0, 1),
    )
    return ProgramQuestion(
        f"is the {first.shape} the same color as the {second.shape}?",
        answer,
        f"{answer}.",
        "compare",
        "attr",
        "twoSameColor",
        None,
        f"60-{first.shape}_{second.shape}",
        program,
        YES_NO,
        "colour",
        2,
    )


KINDS: tuple[Callable[[np.random.Generator, Scene], ProgramQuestion | None], ...] = (
    _query,
    _query,
    _query_object,
    _query_relation,
    _verify,
    _choose,
    _both,
    _verify_relation,
    _same,
)
