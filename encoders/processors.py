"""How many threads a process decodes with, its share of the processors, and the pool of those threads.

On a GPU decoding is what an extraction waits for, at some 300 images a second and processor; so there is no low limit.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from encoders.memory import local_processes

MOST = 32
"""Threads of one process; more would wait for Python's own lock, which resizing and decoding alone give up."""


def processors() -> int:
    """Those that this process may use: what `taskset`, SLURM or a container leave it, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoding_threads() -> int:
    """One a processor, shared by the processes that a launcher started on this machine; from 1 to `MOST`."""
    return max(1, min(MOST, processors() // local_processes()))


def decoding_pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, each of which computes alone."""
    return ThreadPoolExecutor(threads, initializer=compute_alone)


def compute_alone() -> None:
    """Has torch start no threads for what the calling thread computes; other threads keep theirs.

    Else it starts one a processor, for which copying one image is enough. And once OpenMP has more threads than there
    are processors, those of a model sleep between loops where they would spin: its passes take longer (LOG.md).
    """
    torch.get_num_threads()  # at its first call in a thread torch sets that thread's number itself
    threadpool_limits(1, user_api="openmp")
