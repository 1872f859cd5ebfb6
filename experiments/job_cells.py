"""Which cells a job answers.

Handed a configuration and a job; hands on `Cell`s. Nothing here trains, answers or looks at a disk.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.cells import Cell, Removal
from experiments.config import RunConfig
from experiments.jobs import Job, table_of
from fusion.types import all_coalitions


def cells_of(config: RunConfig, job: Job, task: str, *, gallery: bool) -> list[Cell]:
    """One task's cells of a job.

    Args:
        gallery: whether the task ranks a gallery, where nothing can be answered without images.
    """
    seed, controls = job.seed, config.controls != "none"
    if job.kind == "masked":
        cells = _masked(config, job, task, gallery=gallery)
    else:
        cells = [Cell(task, seed, job.of, mode=job.kind)]
    if job.kind == "retrained":
        cells.append(replace(cells[0], split="select"))
        if not job.shown and controls:
            cells.append(Cell(task, seed, (), mode="blind"))
    if job.leads and controls:
        cells.append(Cell(task, seed, job.of, mode="shuffled"))
    if job.leads and gallery:
        cells.append(Cell(task, seed, job.of, mode="reranked"))
    return cells


def table_cell(config: RunConfig, task: str, *, seed: int) -> Cell:
    """The cell of all encoders in a task's table; those of other coalitions differ in that alone."""
    mode = table_of(config)
    # One model lacks encoders in the way in which they were dropped in training.
    removal: Removal = config.train_of(task).fill if mode == "masked" else "drop"
    return Cell(task, seed, tuple(config.encoders), mode, removal)


def _masked(config: RunConfig, job: Job, task: str, *, gallery: bool) -> list[Cell]:
    """Every coalition of a masked model, also with other removals; on validation those that choices are made on."""
    table, full = table_cell(config, task, seed=job.seed), job.of
    cells = [replace(table, coalition=coalition) for coalition in all_coalitions(full) if coalition or not gallery]
    others = [cell for cell in cells if cell.coalition != full]
    singles = [cell for cell in others if len(cell.coalition) == 1]
    cells += [replace(cell, split="select") for cell in (*singles, table)]
    for removal in config.evaluate.removals:
        if removal != table.removal:
            cells += [replace(cell, removal=removal) for cell in others]
    return cells
