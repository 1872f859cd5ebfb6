"""One model's training: step by step, with what is due after a step, on accelerate.

Handed a model and batches; hands on the training record, and leaves the model with the weights that are to be kept. It
goes on from the newest checkpoint, and ends as if it had never stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from experiments.errors import ConfigError
from experiments.memory import fits
from experiments.model import Group, TaskModel
from experiments.processes import Processes
from experiments.training.arrival import read_together
from experiments.training.average import Average
from experiments.training.batches import Batch, Mode
from experiments.training.checkpoint import Checkpoint, Checkpoints, plain
from experiments.training.clock import StepClock
from experiments.training.interruption import Interruption
from experiments.training.optimizer import make_optimizer, set_rate
from experiments.training.progress import Progress, has_converged, validation_steps
from experiments.training.schedule import learning_rate
from experiments.training.seeds import generator_of, seed_of
from experiments.training.settings import TrainConfig

Validate = Callable[[TaskModel], dict[str, float]]
STOPPED = 143
"""Exit status after SIGTERM, as shells give it."""
AGAIN = " (under another --run where a checkpoint is there)"


class Loop:
    """One model's training: its optimizer, average, progress and checkpoints.

    Args:
        steps: in all.
        seed: what a step draws depends on it and on the step's number.
        where: name of the settings, for messages.
    """

    def __init__(
        self,
        model: TaskModel,
        settings: TrainConfig,
        steps: int,
        accelerator: Accelerator,
        validate: Validate,
        checkpoints: Checkpoints,
        interruption: Interruption,
        *,
        seed: int,
        where: str = "train",
    ) -> None:
        model.fusion.freeze(settings.freeze)
        if settings.compile == "blocks":
            model.fusion.operator.compile_layers()
        self.model, self.settings, self.steps, self.seed, self._where = model, settings, steps, seed, where
        self.accelerator, self.processes = accelerator, Processes.of(accelerator)
        self.progress = Progress()
        self.average = Average(model, decay=settings.ema) if settings.ema is not None else None
        self._best: dict[str, Tensor] | None = None  # weights of the best model so far, on the CPU
        self._validate, self._checkpoints, self._interruption = validate, checkpoints, interruption
        self._validations = validation_steps(steps, settings.validate_steps)
        self._running = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        if accelerator.scaler is not None:  # the one at hand has grown with the model before
            accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
        self._wrapped, self._optimizer = accelerator.prepare(model, make_optimizer(model, settings))
        self._bar: Any = None
        self._clock = StepClock()
        self._skipped = 0  # steps since the last record whose scaled gradients overflowed
        self._since = time.perf_counter()

    @property
    def stops_early(self) -> bool:
        """Whether validation has not improved for as long as the settings allow."""
        return self.settings.patience is not None and self.progress.stale >= self.settings.patience

    def bar(self, name: str) -> Any:
        """The progress bar, in examples, of the first process."""
        size = self.settings.batch_size
        self._bar = tqdm(
            total=self.steps * size,
            initial=self.progress.step * size,
            unit="ex",
            desc=f"training {name}",
            disable=not self.processes.first,
        )
        return self._bar

    def step(self, batch: Batch, *, waited: float = 0.0) -> None:
        """One optimizer step, and what is due after it.

        Args:
            waited: seconds that batches have been waited for since the first.
        """
        with fits(f"a step of {self.settings.batch_size} examples", self._smaller()):
            loss = self._train(batch)
        progress = self.progress
        progress.step = batch.step
        self._running += loss
        if batch.step % self.settings.log_steps == 0:
            self._log()
        self._clock.step_ended(waited=waited)
        if batch.step in self._validations:
            self._select()
            self._clock.rest()
        every = self.settings.checkpoint_steps
        ends = batch.step == self.steps or self.stops_early
        stop = self._interruption.asked_of_any()
        if stop or (not ends and every is not None and batch.step % every == 0):
            self._save()
            self._clock.rest()
        if stop:
            if self.processes.first:
                tqdm.write(f"stopped after step {batch.step}: the same command goes on from there", file=sys.stderr)
            raise SystemExit(STOPPED)

    def _train(self, batch: Batch) -> Tensor:
        """Forward, backward and update; returns this process's part of the step's loss."""
        # Whatever a step draws (dropout, negatives) belongs to the step, so that no generator's state need be kept.
        torch.manual_seed(seed_of("step", self.seed, batch.step, self.processes.index))
        self.model.train()
        set_rate(
            self._optimizer,
            learning_rate(batch.step - 1, self.steps, self.settings.warmup, self.settings.schedule),
        )
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for number, part in enumerate(batch.parts):
            generator = generator_of("pairs", self.seed, batch.step, number)
            waits = number + 1 < len(batch.parts)
            with self.accelerator.no_sync(self._wrapped) if waits else nullcontext():
                with self.accelerator.autocast():
                    loss = self._wrapped(self._here(part), generator)
                # Gradients are averaged over processes, but each has only its own examples' part of the loss.
                self.accelerator.backward(loss * self.processes.count)
            total += loss.detach()
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self._optimizer.step()
        self._skipped += self._optimizer.step_was_skipped
        self._optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(batch.step)
        return total

    def _here(self, part: Sequence[Group]) -> list[Group]:
        return [group.to(self.accelerator.device) for group in part]

    def _log(self) -> None:
        count = self.progress.step % self.settings.log_steps or self.settings.log_steps  # fewer where training ends
        mean = self._take_running() / count
        scaled, skipped = self.accelerator.scaler is not None, self._skipped
        self._skipped = 0
        if skipped == count or (not scaled and not math.isfinite(mean)):  # some steps may overflow
            raise self._broken(f"the loss of steps up to {self.progress.step} is {mean}")
        self.progress.losses.append((self.progress.step, mean))
        rate, waiting = self._optimizer.param_groups[0]["lr"], self._clock.waiting() or 0.0
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{mean:.3f}", waiting=f"{waiting:.1%}")
        self.accelerator.log({"train/loss": mean, "train/lr": rate, "train/waiting": waiting}, step=self.progress.step)

    def _take_running(self) -> float:
        """The sum of losses since the last record, over all processes; it starts again from 0."""
        total: Tensor = self.accelerator.reduce(self._running, reduction="sum")
        found = self.progress.running + total.item()
        self.progress.running = 0.0
        self._running = torch.zeros_like(self._running)
        return found

    def _select(self) -> None:
        """Validates, and remembers the model if it is the best so far."""
        with self.average.applied() if self.average is not None else nullcontext():
            scores = self._validate(self.model)
            if self.progress.validated(scores) and self.settings.keep == "best":
                self._best = {key: plain(tensor) for key, tensor in self.model.state_dict().items()}
        self.accelerator.log({f"select/{task}": score for task, score in scores.items()}, step=self.progress.step)

    def _refuse_broken(self) -> None:
        """Refuses weights that nothing can be learned from, or answered with. Raises ConfigError."""
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                raise self._broken(f"{name} is not finite after step {self.progress.step}")

    def _broken(self, what: str) -> ConfigError:
        precise = "" if self.settings.precision == "no" else ", or train.precision=no"
        lower = f"a lower {self._where}.lr than {self.settings.lr}{precise}, under another --run"
        return ConfigError(f"training broke down: {what}; nearest: {lower}")

    def _smaller(self) -> str:
        """What makes a step fit that does not."""
        twice = 2 * self.settings.accumulate
        if self.settings.batch_size < twice * self.settings.groups * self.processes.count:  # no part can be smaller
            return f"a smaller fusion takes less{AGAIN}"
        return f"{self._where}.accumulate={twice} works it off in {twice} parts{AGAIN}"

    def _save(self) -> None:
        """Writes a checkpoint."""
        self._refuse_broken()
        self.progress.running = self._take_running()
        self._count_seconds()
        if self.processes.first:
            weights: dict[str, Mapping[str, Tensor]] = {"model": self.model.state_dict()}
            if self.average is not None:
                weights["average"] = self.average.state
            if self._best is not None:
                weights["best"] = self._best
            state = {"optimizer": self._optimizer.state_dict()}
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            self._checkpoints.save(Checkpoint(self.progress, weights, state))
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Goes on from the newest intact checkpoint that the first process finds; whether there is one.

        Raises:
            ConfigError: another process cannot read it.
        """
        checkpoints = self._checkpoints
        found = read_together(
            checkpoints.newest, checkpoints.load, folder=checkpoints.folder, processes=self.processes
        )
        if found is None:
            return False
        self.model.load_state_dict(dict(found.weights["model"]))
        self._optimizer.load_state_dict(found.state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in found.state:
            self.accelerator.scaler.load_state_dict(found.state["scaler"])
        if self.average is not None:
            self.average.load(found.weights["average"])
        if "best" in found.weights:
            self._best = dict(found.weights["best"])
        self.progress = found.progress
        return True

    def finish(self) -> None:
        """Records the loss up to the last step, and leaves the model with the weights that are to be kept.

        Raises:
            ConfigError: those of the last step, or its loss, are not finite.
        """
        self._refuse_broken()
        if self.progress.step % self.settings.log_steps:
            self._log()
        if self._best is not None:
            self.model.load_state_dict(self._best)
        elif self.average is not None:
            self.average.into_model()
        self._count_seconds()

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._since
        self._since = now

    def record(self, name: str, mode: Mode, seed: int) -> dict[str, Any]:
        """What is stored beside the weights; its budget is what the model was given, its steps what it took."""
        progress, settings = self.progress, self.settings
        return {
            "model": name,
            "mode": mode,
            "seed": seed,
            "steps": progress.step,
            "examples_seen": progress.step * settings.batch_size,
            "budget": {
                "trials": settings.trials,
                "steps": self.steps,
                "batch_size": settings.batch_size,
                "lr": settings.lr,
            },
            "losses": progress.losses,
            "select": progress.select,
            "kept": progress.best_step if settings.keep == "best" else progress.step,
            "converged": has_converged(progress.select),
            "seconds": round(progress.seconds, 1),
            "step_ms": self._clock.record(),
            "waiting": self._clock.waiting(),
        }
