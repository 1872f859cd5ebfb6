"""Controls against a mere ensemble effect: what each one is, how its cells are named, and what is claimed from them.

This is the definition that whoever writes cells follows. A control is a cell of `answers/` like any other: the same
columns, the same rows (task, ids, images, directions, targets) as the table's cells of the evaluated split, under every
seed of the run, `removal` = `drop`. `mode` names the control, `coalition` what it was made of:

| mode | whose answers | coalition |
|---|---|---|
| `blind` | a model trained alike, in which no encoder is ever present; not for galleries, where it is chance | empty |
| `shuffled` | the run's model of all encoders and the same seed, all present, every example with another image | all |
| `duplicate` | trained alike, with as many streams as the run has encoders, all fed the features of one | that one |
| `seeds` | the same, fed as many checkpoints of one encoder; where it has one, as many stored views | that one |
| `matched` | trained alike on one encoder, with as many trainable parameters and visual tokens as the run | that one |
| `averaged` | mean probability (galleries: similarity) of models trained on one encoder each, one per encoder | all |

"All" is the aliases in the run's order joined by `+`; "that one" is an alias, at least that of the best single encoder
as chosen on validation answers (split `select`); further encoders may be written, and each is one more comparison.
`duplicate`, `seeds` and `matched` are trained with the run's VE-dropout (with none where every coalition has a model
of its own) and answered with all their streams present; each stream has an adapter of its own. "Alike" means the same
steps, batch and settings. `matched` keeps within 5 % of the run's trainable parameters (a wider or deeper trunk) and of
its visual tokens (a finer grid).

Complementarity is claimed of a task when the paired gain of all encoders together over every stored control cell is
above 0 after Holm's correction over all such comparisons of the run, and no control is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analysis.answers import CellName, TaskAnswers
from analysis.coalition_values import coalition_name
from analysis.draws import Draws
from analysis.leaves import SHARE, Leaf, is_run, leaf, not_run
from analysis.power import LEVEL

MadeOf = Literal["none", "all", "one"]


@dataclass(frozen=True)
class Control:
    """One kind of control.

    Attributes:
        made_of: which coalition its cells name: none, all encoders, or one of them.
        asked_by: the setting of `--controls` that writes it.
    """

    made_of: MadeOf
    asked_by: Literal["cheap", "full"]


CONTROLS: dict[str, Control] = {
    "blind": Control("none", "cheap"),
    "shuffled": Control("all", "cheap"),
    "duplicate": Control("one", "full"),
    "seeds": Control("one", "full"),
    "matched": Control("one", "full"),
    "averaged": Control("all", "full"),
}
NOT_CONTROLS = ("masked", "retrained")
"""Modes that are coalitions."""


@dataclass(frozen=True)
class Comparison:
    """All encoders together against one cell of a control.

    Attributes:
        name: the cell.
        value: one column, the control's value.
        gain: one column, what all encoders achieve beyond it.
    """

    name: CellName
    value: Draws
    gain: Draws

    @property
    def encoders(self) -> list[str]:
        """What the control was made of."""
        return self.name.coalition.split("+") if self.name.coalition else []


def control_cells(answers: TaskAnswers, aliases: Sequence[str]) -> dict[str, list[CellName]]:
    """The cells of every control that are there under all seeds."""
    coalitions: dict[MadeOf, set[str]] = {"none": {""}, "all": {coalition_name(aliases)}, "one": set(aliases)}
    names = sorted({name for cells in answers.cells.values() for name in cells if name.removal == "drop"})
    return {
        mode: [
            name
            for name in names
            if name.mode == mode and name.coalition in coalitions[control.made_of] and answers.across_seeds(name)
        ]
        for mode, control in CONTROLS.items()
    }


def missing_controls(
    found: Mapping[str, Sequence[Comparison]],
    answers: TaskAnswers,
    *,
    best_single: str | None,
    gallery: bool,
    impossible: Mapping[str, str],
) -> dict[str, str]:
    """Per control that does not count, why.

    Args:
        best_single: the encoder chosen on validation answers, of which a control made of one must be.
        gallery: whether the task ranks galleries, which nobody can do blind.
        impossible: what could not be made, by name, such as `matched of vit`, and why.
    """
    reasons = {}
    for mode, control in CONTROLS.items():
        if mode == "blind" and gallery:
            continue
        made = [comparison.name.coalition for comparison in found.get(mode, [])]
        if not made:
            seeds = sorted(seed for seed, cells in answers.cells.items() if any(n.mode == mode for n in cells))
            part = f"its cells are not those of every seed, or not made of {control.made_of} encoder(s)"
            asked = impossible.get(f"{mode} of {best_single}", f"needs --controls {control.asked_by}")
            reasons[mode] = part if seeds else asked
        elif control.made_of == "one" and best_single is not None and best_single not in made:
            reasons[mode] = f"made of {', '.join(made)}, and not of the best single encoder, {best_single}"
    return reasons


def control_leaves(
    found: Mapping[str, Sequence[Comparison]], missing: Mapping[str, str], *, n: int, chance: float, gallery: bool
) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Value of each control, and what all encoders gain over it; of several cells the strongest one."""
    values: dict[str, Leaf] = {}
    gains: dict[str, Leaf] = {}
    for mode in CONTROLS:
        if not found.get(mode):
            blind = mode == "blind" and gallery
            values[mode] = not_run("without images retrieval is chance by definition" if blind else missing[mode])
            continue
        strongest = max(found[mode], key=lambda comparison: float(comparison.value.point[0]))
        values[mode] = {"encoders": strongest.encoders, **leaf(strongest.value, 0, n=n, chance=chance, bounds=SHARE)}
        gains[mode] = leaf(strongest.gain, 0, n=n)
    return values, gains


def complementarity(
    found: Mapping[str, Sequence[Comparison]], missing: Mapping[str, str], *, n: int
) -> dict[str, Any]:
    """Every comparison of a task with its p; what is claimed waits for the correction over the run."""
    return {
        "comparisons": [
            {
                "control": mode,
                "encoders": comparison.encoders,
                "gain": leaf(comparison.gain, 0, n=n),
                "p": round(comparison.gain.p_value(0), 9),
            }
            for mode in CONTROLS
            for comparison in found.get(mode, [])
        ],
        "missing": dict(missing),
    }


def finish_claim(entry: dict[str, Any]) -> None:
    """Whether complementarity is claimed, and what stands against it; in place, once `p_holm` is there."""
    lacking = [f"controls not run: {', '.join(entry['missing'])}"] if entry["missing"] else []
    for one in entry["comparisons"]:
        if not survives(one):
            made = f" of {'+'.join(one['encoders'])}" if one["encoders"] else ""
            gain = one["gain"]
            better = is_run(gain) and gain["ci95"][1] < 0
            lacking.append(
                f"control {one['control']!r}{made} does better than all encoders together"
                if better
                else f"the gain over control {one['control']!r}{made} may be zero"
            )
    entry["lacking"] = lacking
    entry["claimed"] = not lacking


def survives(comparison: Mapping[str, Any]) -> bool:
    """Whether a gain is above 0 after correction."""
    gain = comparison["gain"]
    return is_run(gain) and gain["ci95"][0] > 0 and comparison["p_holm"] < LEVEL
