"""Reading together what the first process has found: on a shared file system, other machines see a new file late.

Handed how to find and how to read; hands on what each process has read, of the same files, or stops all of them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from experiments.errors import ConfigError
from experiments.processes import Processes

Value = TypeVar("Value")
ARRIVAL = 180.0
"""Seconds to wait for a file. NFS remembers for up to a minute that a name was not there."""
POLL = 0.2


def read_together(
    find: Callable[[], str | None],
    read: Callable[[str], Value | None],
    *,
    folder: Path,
    processes: Processes,
    seconds: float = ARRIVAL,
) -> Value | None:
    """What the first process finds, read by every process for itself; None, in all of them, where it finds nothing.

    Args:
        find: the name of what there is; only the first process is asked.
        read: reads what has this name; None as long as it is not there in full.
        folder: where it lies, for messages.
        seconds: to wait until a process can read it.

    Raises:
        ConfigError: a process cannot; raised in all of them, so that none waits for another.
    """
    name = processes.agree(find() if processes.first else None)
    if name is None:
        return None
    value = _patiently(lambda: read(name), seconds)
    seen = processes.map(lambda _: (value is not None, socket.gethostname()), range(processes.count))
    late = [f"process {rank} on {host}" for rank, (there, host) in enumerate(seen) if not there]
    if late:
        raise ConfigError(
            f"{folder}: process 0 on {seen[0][1]} finds {name} there, {', '.join(late)} cannot read it within"
            f" {seconds:g} s: all machines of a launch need the same folder of runs, such as --runs /shared/runs"
        )
    return value


def _patiently(read: Callable[[], Value | None], seconds: float) -> Value | None:
    until = time.monotonic() + seconds
    while (value := read()) is None and time.monotonic() < until:
        time.sleep(POLL)
    return value
