"""A request to stop (SIGTERM, as a job scheduler sends it) that waits for the end of the step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

from experiments.processes import Processes
from experiments.training.launch import PATIENCE

REPEATED = 10.0
"""Seconds in which another SIGTERM is the same request: schedulers signal every process of a job, and a launcher that
gets one passes it on to its workers."""


class Interruption:
    """Inside, SIGTERM only sets `asked`, until one comes that is no repetition; a context manager.

    Outside the main thread it does nothing. Several processes ask one another through a group of their own, whose
    tensors are on the CPU: a GPU is not waited for.
    """

    def __init__(self, processes: Processes) -> None:
        self.asked = False
        self._several = processes.count > 1
        self._group: Any = None
        self._before: Any = None
        self._since = 0.0

    def __enter__(self) -> Interruption:
        if self._several:
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._group is not None:
            distributed.destroy_process_group(self._group)

    def asked_of_any(self) -> bool:
        """Whether one of the processes was asked to stop; all of them have to come here."""
        if self._group is None:
            return self.asked
        asked = torch.tensor([int(self.asked)])
        distributed.all_reduce(asked, group=self._group)
        return bool(asked.item())

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = True, now
        elif now - self._since > REPEATED:  # somebody does not want to wait
            signal.signal(signal.SIGTERM, self._before)
            signal.raise_signal(signal.SIGTERM)
