"""Processes of one launch, without a launcher: they meet through gloo, with one thread each."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

PRELOADED = ["encoders.torchvision_compat", "experiments.workshop"]


class Launch:
    """`work(*arguments)` in several processes; their ranks are in the environment."""

    def __init__(self, work: Callable[..., Any], *arguments: Any, count: int = 2) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._ends: list[Connection] = []
        self.processes: list[BaseProcess] = []
        for rank in range(count):
            own, other = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(other, work, arguments, rank, count, port), daemon=True)
            process.start()
            other.close()
            self._ends.append(own)
            self.processes.append(process)

    def kill(self) -> None:
        """Ends them all at once, as a power cut does."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def results(self, *, seconds: float = 120.0) -> list[Any]:
        """What each has returned, or the error that it has raised; fails where one hangs or dies."""
        until = time.monotonic() + seconds
        try:
            found = []
            for rank, end in enumerate(self._ends):
                assert end.poll(max(0.0, until - time.monotonic())), f"process {rank} hangs"
                found.append(end.recv())
            return found
        finally:
            self.kill()


def _run(
    end: Connection, work: Callable[..., Any], arguments: tuple[Any, ...], rank: int, count: int, port: int
) -> None:
    import torch

    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in named.items()}, MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    try:
        end.send(work(*arguments))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        end.send(error)
