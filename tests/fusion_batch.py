"""Three images for the fusion tests: a 2x2 grid, a 3x3 grid behind a prefix token, up to four regions."""

import torch
from torch import Tensor

from fusion.alignment import grid_boxes
from fusion.types import Features

WIDTHS = {"vit": 6, "clip": 10, "keys": 4}  # "keys" is also a method of ModuleDict
NUM_TOKENS = {"vit": 4, "clip": 10, "keys": 4}
TEXTS = ["red circle", "a small blue square", ""]
PREFIX = torch.tensor([[0.5, 0.5, 1.0, 1.0]])


def boxes_of(alias: str, generator: torch.Generator) -> Tensor:
    if alias == "vit":
        return grid_boxes((2, 2)).expand(3, 4, 4)
    if alias == "clip":
        return torch.cat([PREFIX, grid_boxes((3, 3))]).expand(3, 10, 4)
    sizes = 0.2 + 0.4 * torch.rand(3, 4, 2, generator=generator)
    corners = torch.rand(3, 4, 2, generator=generator) * (1 - sizes)
    return torch.cat([corners + sizes / 2, sizes], dim=-1)


def batch(seed: int = 0) -> dict[str, Features]:
    """Features of all encoders; the third image has three regions, the first two have four."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for alias, num_tokens in NUM_TOKENS.items():
        tokens = torch.randn(3, num_tokens, WIDTHS[alias], generator=generator)
        valid = torch.ones(3, num_tokens, dtype=torch.bool)
        if alias == "keys":
            valid[2, 3] = False
        features[alias] = Features(tokens, boxes_of(alias, generator).clone(), valid)
    return features


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
