"""Attention over PyTorch's kernels, and which of them is the fast one.

Handed queries, keys, values and a mask; hands on what attention gives. PyTorch's fused kernel is used everywhere but
where it was measured to be slow: its backward pass in bfloat16 on a CPU.
"""

import math

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, bfloat16, is_grad_enabled

SHORT = 256
"""Keys up to which plain products are faster than the fused kernel in bfloat16 training on a CPU: 4 times at 83
keys, the same at 300, where their memory (queries x keys) also starts to matter."""


def attention(
    query: Float[Tensor, "b h q c"],
    keys: Float[Tensor, "b h l c"],
    values: Float[Tensor, "b h l d"],
    *,
    mask: Bool[Tensor, "b 1 x l"] | None,
) -> Float[Tensor, "b h q d"]:
    """Returns softmax(q k^T / sqrt(c)) v over the keys that the mask lets through; all of them without one.

    A query that may see none, such as one of an image without regions, sees all, for a softmax over nothing has no
    finite gradient; its caller reads nothing of it.
    """
    if mask is not None:
        mask = mask | ~mask.any(dim=-1, keepdim=True)
    trains = is_grad_enabled() and query.requires_grad
    if trains and query.device.type == "cpu" and query.dtype == bfloat16 and keys.shape[2] <= SHORT:
        scores = (query / math.sqrt(query.shape[-1])) @ keys.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        attended: Tensor = scores.softmax(dim=-1) @ values
        return attended
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
