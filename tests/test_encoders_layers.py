"""Blocks and final features of one model come out of one pass, with the bytes of the library's own passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders_checkpoints import open_clip_checkpoint
from encoders_folders import hf_folder, open_clip_folder, timm_folder
from torch import Tensor, nn

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import timm

from encoders import load_encoder
from encoders.module import tokens_together
from encoders.open_clip_encoder import tower_forward
from encoders.pooling import TokenGrid, from_map
from encoders.timm_encoder import trunk_forward

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": {**SMALL, "img_size": 70},
    "vit_small_patch16_dinov3": SMALL,
    "eva02_tiny_patch14_224": {**SMALL, "img_size": 70},
    "beitv2_base_patch16_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "vit_pe_core_gigantic_patch14_448": {**SMALL, "img_size": 70},
    "vit_tiny_r_s16_p8_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1] * 4},
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1] * 4},
    "convnextv2_atto": {},
    "resnet18": {},
    "efficientnet_b0": {},
    "volo_d1_224": {"img_size": 64},
    "xcit_nano_12_p16_224": {},
    "cait_xxs24_224": {"img_size": 64},
    "pvt_v2_b0": {},
}


def noise(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def calls(module: Any) -> list[int]:
    """The number of images of each pass from now on: every pass begins with the first convolution."""
    seen: list[int] = []
    first = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    first.register_forward_hook(lambda _module, given, _result: seen.append(len(given[0])))
    return seen


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm_gives_layers_and_final_features_in_one_pass(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0, **TIMM[name]).eval().requires_grad_(False)
    images = noise(TIMM[name].get("img_size", 64))
    forward = trunk_forward(model)
    [final], [early, last] = forward(images, [None]), forward(images, [1, 2])
    seen = calls(model)
    taken = forward(images, [2, None, 1])
    assert seen == [1, 1, 2]  # one image shows, the first time, that the two ways end alike
    assert all(torch.equal(one.flat(), other.flat()) for one, other in zip(taken, [last, final, early], strict=True))
    seen.clear()
    count = len(model.forward_intermediates(images, intermediates_only=True))
    seen.clear()
    mixed = forward(images, [1, None, 2 - count])
    assert seen == [2]
    assert all(torch.equal(one.flat(), other.flat()) for one, other in zip(mixed, [early, final, last], strict=True))


class Apart(nn.Module):
    """A model whose two ways end differently: the layers' is not normalised."""

    output_fmt = "NCHW"

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2)])

    def forward_features(self, images: Tensor) -> Tensor:
        return 2 * self.forward_intermediates(images)[0]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: list[int] | None = None,
        intermediates_only: bool = False,
        stop_early: bool = False,
        norm: bool = False,
        output_fmt: str = "NCHW",
    ) -> Any:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        taken = [maps[index] for index in (range(2) if indices is None else indices)]
        return taken if intermediates_only else (images, taken)


@torch.no_grad()
def test_where_the_two_ways_end_differently_each_is_taken() -> None:
    model, images = Apart(), noise(16)
    forward = trunk_forward(model)
    forward(images, [0, None])
    seen = calls(model)
    early, final = forward(images, [0, None])
    assert seen == [2, 2]
    first = model.stages[0](images)
    assert torch.equal(early.flat(), from_map(first).flat())
    assert torch.equal(final.flat(), from_map(2 * model.stages[1](first)).flat())


VISION = {"image_size": 64, "layers": 3, "width": 64, "patch_size": 16, "head_width": 32}
CLIPA = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "vit": VISION,
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "coca": {**VISION, "attentional_pool": True, "attn_pooler_heads": 4},
    "clipa": {**VISION, **CLIPA},
    "timm": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224},
}


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_open_clip_gives_layers_and_final_features_in_one_pass(tmp_path: Path, name: str) -> None:
    open_clip_checkpoint(tmp_path / "clip", OPEN_CLIP[name])
    encoder: Any = load_encoder(f"open_clip:{tmp_path}/clip?layer=final")
    images = noise(OPEN_CLIP[name]["image_size"])
    forward = tower_forward(encoder._module)
    [final], [early, last] = forward(images, [None]), forward(images, [1, -1])
    forward(images, [1, None])  # a timm tower is looked at once
    seen = calls(encoder._module)
    taken = forward(images, [-1, None, 1])
    assert seen == [2]
    assert all(torch.equal(one.flat(), other.flat()) for one, other in zip(taken, [last, final, early], strict=True))
    assert (final.flat() == last.flat()).all() == (name in ("resnet", "coca", "clipa"))


@pytest.mark.parametrize("backend", ["timm", "open_clip", "hf"])
def test_encoders_of_several_layers_run_the_model_once(tmp_path: Path, backend: str) -> None:
    """Joined layers of one encoder, and encoders of one layer each, of which none has seen the others' layers."""
    {"timm": timm_folder, "open_clip": open_clip_folder, "hf": hf_folder}[backend](tmp_path / "net")
    joined: Any = load_encoder(f"{backend}:{tmp_path}/net?layer=0,final,-2&join=tokens")
    single: list[Any] = [load_encoder(f"{backend}:{tmp_path}/net?layer={layer}") for layer in ("0", "final", "-2")]
    images = noise(64)
    apart = [one.tokens(images) for one in single]
    seen = calls(joined._module)
    parts = [TokenGrid(tokens[:, :1], tokens[:, 1:].unflatten(1, (4, 4))) for tokens in apart]
    expected = torch.cat([*(part.prefix for part in parts), *(part.grid.flatten(1, 2) for part in parts)], dim=1)
    assert torch.equal(joined.tokens(images), expected) and seen == [2]
    tokens_together(single, images)
    seen = calls(single[0]._module)
    together = tokens_together(single, images)
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True)) and seen == [2]
