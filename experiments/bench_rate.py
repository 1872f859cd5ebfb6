"""Tokens a second of `bench train`, and the share of this machine's arithmetic that they use."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench import Figure
from experiments.bench_model import Bench, concat_step, took

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product says what the device can do."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rate_figures(bench: Bench, *, rounds: int) -> list[Figure]:
    """(f) Forward and backward of `concat`: tokens/s, and its FLOP/s ÷ those of one large matrix product.

    On GPUs in bf16, too.
    """
    model = bench.model().train()
    group = bench.batches(model, 1)[0][0]
    step = partial(concat_step, model, group, bench.shape.aliases)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused ones are not all counted
        step()
    tokens, found = bench.shape.batch * bench.shape.length, []
    for name, dtype in PRECISIONS.items():
        if dtype != torch.float32 and bench.device.type == "cpu":
            continue
        square = torch.randn(SIDE[bench.device.type], SIDE[bench.device.type], device=bench.device, dtype=dtype)
        product = partial(torch.matmul, square, square)
        with torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
            step()
            product()
            times = [(took(step).wall, took(product).wall) for _ in range(rounds)]
        seconds = median(own for own, _ in times)
        share = median(counter.get_total_flops() / own / (2 * len(square) ** 3 / other) for own, other in times)
        found += [
            Figure(f"concat forward + backward in {name} ({bench.shape})", tokens / seconds / 1e3, "ktok/s"),
            Figure(f"the same: FLOP/s ÷ those of a {len(square)}² matrix product in {name}", share),
        ]
    return found
