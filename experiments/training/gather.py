"""A batch whose rows lie in several processes, and gathering what each has computed of its rows, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from experiments.processes import Processes
from tasks.base import Example


class _Gather(torch.autograd.Function):
    """Rows of all processes, padded to equal number; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = len(own)
        found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(found, own.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        start = ctx.rows * distributed.get_rank()
        return total[start : start + ctx.rows]


@dataclass(frozen=True, slots=True)
class Shared:
    """A batch of which every process has every so-manieth row; a `tasks.base.Whole`."""

    examples: Sequence[Example]
    processes: Processes

    @property
    def rows(self) -> Sequence[int]:
        """Those of this process."""
        return range(self.processes.index, len(self.examples), self.processes.count)

    def gather(self, own: Tensor) -> Tensor:
        """What all processes have, by row."""
        longest = -(-len(self.examples) // self.processes.count)
        padded = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        gathered: Tensor = _Gather.apply(padded)  # type: ignore[no-untyped-call]
        # Row r is row r // count of process r % count.
        places = torch.arange(len(self.examples), device=own.device)
        return gathered[(places % self.processes.count) * longest + places // self.processes.count]
