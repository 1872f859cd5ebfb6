"""Does jobs: trains a job's model, or loads it, and writes the cells that it answers.

Handed the run's data, features and encoders; hands on files in the run folder. Whatever is there is kept. Several
processes of one launch do each job together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from encoders import load_encoder
from encoders.base import Encoder
from experiments.bank import FeatureBank
from experiments.cells import Cell, write_table
from experiments.config import RunConfig
from experiments.data import Part, TaskData
from experiments.evaluate import Evaluator
from experiments.job_cells import cells_of
from experiments.jobs import Job, for_inputs
from experiments.model import TaskModel, load_weights, save_weights
from experiments.processes import Processes
from experiments.run_folder import other_settings, refuse_together
from experiments.share import Share
from experiments.stores import stock
from experiments.training.arrival import read_together
from experiments.training.checkpoint import Checkpoints
from experiments.training.train import make_dropout, observe, train_model
from experiments.training.validation import validation_part
from fusion.model import FusionModel
from fusion.types import coalition_name
from fusion.ve_dropout import VEDropout
from tasks.base import Answer, Objective
from tasks.contrast import RetrievalObjective
from tasks.objectives import ScoredObjective

OBSERVED = 1024
"""Training images of a task over which features are standardised, at most."""
Answering = tuple[Cell, Callable[[], list[Answer]]]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What jobs are done with; `objectives` are the tasks', untrained, for what kind they are of.

    Raises:
        ConfigError: models of a task could not be validated.
    """

    config: RunConfig
    data: Mapping[str, TaskData]
    encoders: Mapping[str, Encoder]
    bank: FeatureBank
    accelerator: Accelerator
    objectives: Mapping[str, Objective]

    def __post_init__(self) -> None:
        for task in self.data:
            self.validation_of(task)

    @property
    def galleries(self) -> dict[str, bool]:
        """Which tasks rank a gallery."""
        return {task: objective.scoring == "gallery" for task, objective in self.objectives.items()}

    @property
    def processes(self) -> Processes:
        """Those that do each job together."""
        return Processes.of(self.accelerator)

    @property
    def device(self) -> torch.device:
        """Where models are."""
        found: torch.device = self.accelerator.device
        return found

    def done(self, job: Job) -> bool:
        """Whether all its files are there."""
        cells = all(cell.exists(self.config.folder) for cell in self.cells(job))
        return cells and all(path.exists() for path in self._attention(job).values())

    def do(self, job: Job) -> None:
        """Trains the job's model and answers its cells, as far as that is not done yet.

        Raises:
            ConfigError: another command has made the folder one of another run meanwhile.
        """
        if self.processes.agree(self.done(job)):
            return
        self._refuse_another_run()
        bank = self.bank_of(job)
        model = self.model_of(job, bank)
        for task in job.answers:
            self._answer(job, task, model, bank)

    def _refuse_another_run(self) -> None:
        """What was begun under other settings meanwhile must not get this run's models and answers."""
        refuse_together(self.processes, lambda: other_settings(self.config, meanwhile=True))

    def cells(self, job: Job) -> list[Cell]:
        """The cells that a job answers."""
        return [cell for task in job.answers for cell in self._cells(job, task)]

    def _cells(self, job: Job, task: str) -> list[Cell]:
        return cells_of(self.config, job, task, gallery=self.galleries[task])

    def bank_of(self, job: Job) -> FeatureBank:
        """The features that the job's model reads; those of encoders of its own are extracted first."""
        if not job.encoders:
            return self.bank.reading(job.sources)
        encoders = {alias: self.load(alias, spec) for alias, spec in job.encoders.items()}
        return self.stock(encoders).reading(job.sources)

    def stock(self, encoders: Mapping[str, Encoder], *, share: Share = Share()) -> FeatureBank:  # noqa: B008
        """Features of encoders that the run may not have, extracted first."""
        return stock(self.config, self.data, encoders, accelerator=self.accelerator, share=share)

    def validation_of(self, task: str) -> TaskData:
        """The task with that part of its select split on which models are validated while they train."""
        return validation_part(self.data[task], self.config.train_of(task))

    def model_of(self, job: Job, bank: FeatureBank) -> TaskModel:
        """The job's model: loaded where it was finished before, else trained and saved.

        Raises:
            ConfigError: the first process finds it finished, and another one cannot read it.
        """
        config = for_inputs(self.config, job)
        data = {task: self.data[task] for task in job.tasks}
        model = build_model(config, data, bank.widths, seed=job.seed).to(self.device)
        path = config.folder / "train" / job.stem
        checkpoints = Checkpoints(path.with_suffix(".checkpoints"))
        if self._load(model, path):
            checkpoints.clear()
            return model
        full = job.shown
        for task, item in data.items():
            images = item.splits["train"].images()[:OBSERVED]
            for start in range(0, len(images), 256):
                model.fusion.observe(bank.features(task, images[start : start + 256], full, self.device))

        validation = {task: self.validation_of(task) for task in data}

        def validate(now: TaskModel) -> dict[str, float]:
            return {
                name: item.task.value(self._evaluator(now, bank, item, "select").answers(full))
                for name, item in validation.items()
            }

        record = train_model(
            model,
            data,
            bank,
            config,
            name=job.stem.removesuffix(f"-{job.seed}"),
            mode="blind" if job.kind == "blind" else "masked",
            seed=job.seed,
            accelerator=self.accelerator,
            validate=validate,
            checkpoints=checkpoints,
        )
        self._refuse_another_run()
        if self.processes.first:
            save_weights(model, path, record | self._described(job, model, bank))
            checkpoints.clear()
        self.accelerator.wait_for_everyone()
        return model

    def _described(self, job: Job, model: TaskModel, bank: FeatureBank) -> dict[str, Any]:
        """What a training record says of the model, beside how it was trained."""
        parts = {task: self.validation_of(task).splits["select"] for task in job.tasks}
        return {
            "model": job.name,
            "kind": job.kind,
            "of": coalition_name(job.of),
            "inputs": list(job.sources),
            "operator": {"name": self.config.fusion.operator, **model.fusion.operator.describe()},
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "tokens": self._num_tokens(bank, job),
            "validated_on": {task: len(split.examples) for task, split in parts.items()},
        }

    def _load(self, model: TaskModel, path: Path) -> bool:
        """Loads a finished model, in every process or in none."""

        def find() -> str | None:
            return path.name if all(path.with_suffix(end).exists() for end in (".json", ".safetensors")) else None

        def load(name: str) -> dict[str, Any] | None:
            return load_weights(model, path.with_name(name))

        return read_together(find, load, folder=path.parent, processes=self.processes) is not None

    def averaged(self, jobs: Sequence[Job]) -> bool:
        """Whether `average` of these jobs has nothing to do."""
        return all(cell.exists(self.config.folder) for cell in self._averages(jobs).values())

    def average(self, jobs: Sequence[Job]) -> None:
        """Answers with the mean probability (in galleries, similarity) of models of single encoders."""
        wanted = self._averages(jobs)
        there = self.processes.agree({task: cell.exists(self.config.folder) for task, cell in wanted.items()})
        if all(there.values()):
            return
        banks = [self.bank_of(job) for job in jobs]
        models = [self.model_of(job, bank) for job, bank in zip(jobs, banks, strict=True)]
        for task, cell in wanted.items():
            if there[task]:
                continue
            objective, item = models[0].objective(task), self.data[task]
            evaluators = [self._evaluator(m, bank, item, "test") for m, bank in zip(models, banks, strict=True)]
            scores = [one.scores(bank.aliases) for one, bank in zip(evaluators, banks, strict=True)]
            if isinstance(objective, ScoredObjective):
                mean = objective.averaged(scores)
            else:
                mean = torch.stack(scores).mean(0)
            self._write([(cell, partial(evaluators[0].answers_of, mean))], name=None)

    def _averages(self, jobs: Sequence[Job]) -> dict[str, Cell]:
        """The cells of `average`; a task of one's own may have no probabilities to average."""
        full, seed = tuple(self.config.encoders), jobs[0].seed
        scored = [t for t in jobs[0].answers if isinstance(self.objectives[t], (RetrievalObjective, ScoredObjective))]
        return {task: Cell(task, seed, full, mode="averaged") for task in scored}

    def load(self, alias: str, spec: str) -> Encoder:
        """An encoder that the run may not have, on the run's device. Raises EncoderError."""
        return load_encoder(f"{alias}={spec}", device=str(self.device))

    def _num_tokens(self, bank: FeatureBank, job: Job) -> int:
        task = job.tasks[0]
        image = self.data[task].splits["test"].images()[:1]
        return sum(found.tokens.shape[1] for found in bank.features(task, image, bank.aliases).values())

    def _evaluator(
        self,
        model: TaskModel,
        bank: FeatureBank,
        item: TaskData,
        part: Part,
        *,
        fills: Mapping[str, VEDropout] | None = None,
    ) -> Evaluator:
        settings = self.config.evaluate
        return Evaluator(
            model,
            bank,
            item,
            part,
            batch_size=settings.batch_size,
            precision=settings.precision,
            processes=self.processes,
            fills=fills,
        )

    def _answer(self, job: Job, task: str, model: TaskModel, bank: FeatureBank) -> None:
        """One task's cells, and where the model looks."""
        fills = self._fills(job, model, bank)
        test = self._evaluator(model, bank, self.data[task], "test", fills=fills)
        select = self._evaluator(model, bank, self.data[task], "select", fills=fills)
        full = job.shown

        def answer(cell: Cell) -> list[Answer]:
            if cell.mode == "reranked":
                return test.reranked(full, size=self.config.evaluate.rerank)
            seen = cell.coalition if cell.mode == "masked" else full
            evaluator = select if cell.split == "select" else test
            return evaluator.answers(seen, shuffled=cell.mode == "shuffled", removal=cell.removal)

        self._write([(cell, partial(answer, cell)) for cell in self._cells(job, task)], name=f"{job.kind} {task}")
        for path in [path for name, path in self._attention(job).items() if name == task]:
            if not self.processes.agree(path.exists()):
                rows = test.attention(full, examples=self.config.evaluate.attention_examples)
                if self.processes.first:
                    write_table(pa.Table.from_pylist([{**row, "seed": job.seed} for row in rows]), path)

    def _fills(self, job: Job, model: TaskModel, bank: FeatureBank) -> dict[str, VEDropout]:
        """What stands in for absent encoders, by the removals that put constants there."""
        fills: dict[str, VEDropout] = {}
        if job.kind != "masked":
            return fills
        if model.dropout is not None:
            fills[model.dropout.fill] = model.dropout
        for name in self.config.evaluate.removals:
            if name in ("zero", "mean") and name not in fills:
                settings = replace(self.config.train_of(*job.tasks), fill=name)
                made = make_dropout(bank.widths, settings).to(self.device)
                observe(made, {t: self.data[t] for t in job.tasks}, bank, count=settings.fill_images)
                fills[name] = made
        return fills

    def _attention(self, job: Job) -> dict[str, Path]:
        """Files of the attention of a model that leads, by task."""
        folder = self.config.folder / "attention"
        return {task: folder / f"{task}.{job.seed}.parquet" for task in job.answers if job.leads}

    def _write(self, answering: Sequence[Answering], *, name: str | None) -> None:
        """Computes the cells that are not there yet, all processes together, and the first one writes them."""
        folder = self.config.folder
        there = self.processes.agree([cell.exists(folder) for cell, _ in answering])
        missing = [job for job, exists in zip(answering, there, strict=True) if not exists]
        if missing:
            self._refuse_another_run()
        quiet = name is None or len(missing) < 2 or not self.processes.first
        for cell, answer in tqdm(missing, unit="cell", desc=name, disable=quiet):
            answers = answer()
            if self.processes.first:
                cell.write(folder, answers)


def build_model(config: RunConfig, data: Mapping[str, TaskData], widths: Mapping[str, int], *, seed: int) -> TaskModel:
    """A fresh model with a head per task."""
    fusion = FusionModel(config.fusion, widths, seed=seed)
    torch.manual_seed(seed)
    objectives = {name: item.task.objective(item.splits["train"], config.fusion.width) for name, item in data.items()}
    settings = config.train_of(*data)
    dropout = None if settings.fill == "drop" else make_dropout(widths, settings)
    return TaskModel(fusion, objectives, dropout=dropout)
