"""How many threads a process decodes with: its share of the processors.

On a GPU decoding is what an extraction waits for, at some 300 images a second and processor; so there is no low limit.
"""

from __future__ import annotations

import os

from encoders.memory import local_processes

MOST = 32
"""Threads of one process; more would wait for Python's own lock, which resizing and decoding alone give up."""


def processors() -> int:
    """Those that this process may use: what `taskset`, SLURM or a container leave it, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoding_threads() -> int:
    """One a processor, shared by the processes that a launcher started on this machine; from 1 to `MOST`."""
    return max(1, min(MOST, processors() // local_processes()))
