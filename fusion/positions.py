"""Where a visual token is: one learned projection of Fourier features of its box, shared by all encoders.

Handed boxes (cx cy w h in 0-1), hands on vectors of the fusion width. A token's position depends on its own
box alone, so unequal grids line up, and dropping tokens equals masking them. Centres get more frequencies
than sizes: a 7x7 and a 14x14 token over the same place must stay alike although their sizes differ.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

CENTRE_FREQUENCIES = 4
SIZE_FREQUENCIES = 2
NUM_FEATURES = 2 * 2 * (CENTRE_FREQUENCIES + SIZE_FREQUENCIES)


def fourier_features(boxes: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n f"]:
    """Returns sin and cos of pi 2^j x for each of cx, cy (j = 0..3) and w, h (j = 0..1), in float32."""
    boxes = boxes.float()
    parts = []
    for values, num_frequencies in ((boxes[..., :2], CENTRE_FREQUENCIES), (boxes[..., 2:], SIZE_FREQUENCIES)):
        frequencies = math.pi * 2.0 ** torch.arange(num_frequencies, device=boxes.device)
        angles = rearrange(values[..., None] * frequencies, "b n c j -> b n (c j)")
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=-1)


class BoxPositions(nn.Module):
    """Maps boxes to position vectors.

    The projection starts at an amplitude of one per coordinate, as large as a token's content, so that
    attention can align tokens of the same place across encoders from the first step.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(NUM_FEATURES, width)
        # sin^2 + cos^2 = 1: the features' squared length is NUM_FEATURES / 2 everywhere.
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / NUM_FEATURES))
        nn.init.zeros_(self.project.bias)

    def forward(self, boxes: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n w"]:
        """Returns one vector a box."""
        projected: Tensor = self.project(fourier_features(boxes).to(self.project.weight.dtype))
        return projected
