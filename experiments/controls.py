"""What the trained controls are made of: the best single encoder, and what models of it alone read.

Handed a finished table and the run's encoders; hands on `Streams` by control, or why a control cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from encoders.base import Encoder
from experiments.cells import read_answers
from experiments.config import RunConfig
from experiments.data import TaskData
from experiments.job_cells import table_cell
from experiments.jobs import CONTROLS, Control, Job, for_inputs, groups_of
from experiments.parameters import matching_ratio
from experiments.streams import Streams, duplicate, matched, seeds


def best_single(config: RunConfig, data: Mapping[str, TaskData]) -> dict[str, str]:
    """By task, the encoder that is best on its own on validation, over all seeds."""
    best = {}
    for task, item in data.items():
        scores = {}
        for alias in config.encoders:
            cells = [table_cell(config, task, seed=seed) for seed in config.seeds]
            alone = [replace(cell, coalition=(alias,), split="select") for cell in cells]
            values = [item.task.value(read_answers(config.folder, cell)) for cell in alone]
            scores[alias] = sum(values) / len(values)
        best[task] = max(scores, key=lambda alias: scores[alias])
    return best


def control_streams(
    config: RunConfig,
    encoders: Mapping[str, Encoder],
    aliases: Iterable[str],
    *,
    load: Callable[[str, str], Encoder],
) -> tuple[dict[tuple[Control, str], Streams], dict[str, str]]:
    """What the controls of some encoders read, and why one cannot be.

    Args:
        encoders: all of the run's.
        load: an encoder by alias and spec.
    """
    count = len(encoders)
    num_tokens = sum(encoder.num_tokens for encoder in encoders.values())
    found: dict[tuple[Control, str], Streams] = {}
    lacking: dict[str, str] = {}
    for alias in aliases:
        spec, own = config.encoders[alias], partial(load, alias)
        others = config.control_checkpoints.get(alias, ())
        finer = matched(alias, spec, count=count, num_tokens=num_tokens, load=own)
        made: dict[Control, Streams | str] = {
            "duplicate": duplicate(alias, count=count),
            "seeds": seeds(alias, spec, count=count, checkpoints=others, load=own),
            "matched": _as_large(config, encoders, alias, finer) if isinstance(finer, Streams) else finer,
        }
        for kind in CONTROLS:
            one = made[kind]
            if isinstance(one, Streams):
                found[kind, alias] = one
            else:
                lacking[f"{kind} of {alias}"] = one
    return found, lacking


def _as_large(config: RunConfig, encoders: Mapping[str, Encoder], alias: str, made: Streams) -> Streams | str:
    """Streams of one encoder with a trunk that gives their models the run's number of parameters, or why none."""
    widths = {name: encoder.width for name, encoder in encoders.items()}
    own_widths = dict.fromkeys(made.sources, widths[alias])
    ratios: list[int | float] = []
    for name, tasks in groups_of(config).items():
        own = for_inputs(config, Job("matched", name, tasks, tasks, 0, (alias,), made.sources))
        ratio = matching_ratio(config, widths, own, own_widths, tasks)
        if isinstance(ratio, str):
            return f"{name}: {ratio}"
        ratios.append(ratio)
    if len(set(ratios)) > 1:
        return f"its models need trunks of several widths, fusion.mlp_ratio={', '.join(map(str, ratios))}"
    return made if ratios[0] == config.fusion.mlp_ratio else replace(made, mlp_ratio=ratios[0])
