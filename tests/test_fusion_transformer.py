"""The blocks and their attention mass against an explicit softmax, and positions against their meaning."""

import math
from dataclasses import replace

import pytest
import torch
from fusion_batch import TEXTS, WIDTHS, batch
from torch import Tensor

from fusion.attention import attention
from fusion.config import FusionConfig
from fusion.model import FusionModel
from fusion.positions import NUM_FEATURES, BoxPositions, fourier_features
from fusion.transformer import Block, Sight, Trunk, TrunkShape, cls_mass


def shape(norm: str) -> TrunkShape:
    return TrunkShape(
        width=16,
        layers=2,
        heads=4,
        mlp_width=32,
        vocab_size=1,
        max_positions=1,
        norm=norm,  # type: ignore[arg-type]
    )


def explicit(block: Block, states: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """One pre-norm block written out head by head: new states and the full attention weights b h l l."""
    inner = block.attention_norm(states)
    query, keys, values = (inner @ part.T for part in block.qkv.weight.split(16))
    out, weights = [], []
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        scores = query[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(4)
        weights.append(torch.where(valid[:, None, :], scores, -torch.inf).softmax(-1))
        out.append(weights[-1] @ values[..., part])
    states = states + torch.cat(out, -1) @ block.out.weight.T
    inner = block.mlp_norm(states) @ block.up.weight.T
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return states + inner @ block.down.weight.T, torch.stack(weights, dim=1)


def test_block_and_mass_equal_explicit_softmax() -> None:
    torch.manual_seed(0)
    block = Block(shape("pre"), dropout=0.0)  # biases start at zero, so `explicit` leaves them out
    states = torch.randn(3, 7, 16)
    valid = torch.ones(3, 7, dtype=torch.bool)
    valid[0, 2] = valid[1, 4:] = False
    spans = [slice(0, 1), slice(1, 3), slice(3, 7)]
    found, mass = block(states, sight=Sight.of(valid), mass_of=spans)
    expected, weights = explicit(block, states, valid)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    row = weights[:, :, 0]
    expected_mass = torch.stack([row[..., 0], row[..., 1:3].sum(-1), row[..., 3:].sum(-1)], dim=-1)
    torch.testing.assert_close(mass, expected_mass, atol=1e-5, rtol=0)
    torch.testing.assert_close(mass.sum(-1), torch.ones(3, 4), atol=1e-5, rtol=0)


def test_mass_by_hand() -> None:
    """Scores q.k / sqrt(1) = ln 1, ln 2, ln 5 and a masked one: weights 1/8, 2/8, 5/8, 0."""
    keys = torch.tensor([1.0, 2.0, 5.0, 100.0]).log().reshape(1, 1, 4, 1)
    valid = torch.tensor([[True, True, True, False]])
    mass = cls_mass(torch.ones(1, 1, 1), keys, valid, [slice(0, 1), slice(1, 3), slice(3, 4)])
    torch.testing.assert_close(mass, torch.tensor([[[0.125, 0.875, 0.0]]]))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_mask_of_all_valid_equals_no_mask(norm: str) -> None:
    torch.manual_seed(0)
    block = Block(shape(norm), dropout=0.0)
    states = torch.randn(2, 5, 16)
    everything = torch.ones(2, 5, dtype=torch.bool)
    masked, _ = block(states, sight=Sight(everything[:, None, None]))
    torch.testing.assert_close(block(states)[0], masked, atol=1e-6, rtol=0)


def test_trunk_reports_mass_of_every_layer_and_not_unless_asked() -> None:
    trunk = Trunk(shape("post"), dropout=0.0)
    states, valid = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    plain, none = trunk(states, valid=valid)
    again, mass = trunk(states, valid=valid, mass_of=[slice(0, 2), slice(2, 5)])
    assert none is None and mass.shape == (2, 2, 4, 2) and not mass.requires_grad
    assert torch.equal(plain, again)


def test_fourier_features_by_hand() -> None:
    """At cx = .5 the angles are pi/2, pi, 2 pi, 4 pi; at w = 1 they are pi and 2 pi."""
    found = fourier_features(torch.tensor([[[0.5, 0.0, 1.0, 0.5]]]))[0, 0]
    sin_centre = [1, 0, 0, 0] + [0] * 4
    cos_centre = [0, -1, 1, 1] + [1] * 4
    sin_size, cos_size = [0, 0, 1, 0], [-1, 1, 0, -1]
    expected = torch.tensor([*sin_centre, *cos_centre, *sin_size, *cos_size], dtype=torch.float32)
    assert len(expected) == NUM_FEATURES
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_positions_line_up_unequal_grids_from_the_start() -> None:
    """The token of a 2x2 grid is nearest, among those of a 4x4 grid, to the four that lie inside it."""

    def grid(side: int) -> Tensor:
        centre = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        size = torch.full((side * side,), 1 / side)
        return torch.stack([x.flatten(), y.flatten(), size, size], dim=-1)[None]

    torch.manual_seed(0)
    project = BoxPositions(128)
    coarse, fine = project(grid(2))[0], project(grid(4))[0]
    assert 0.5 < fine.std() < 2.0
    order = torch.cdist(coarse, fine).argsort(dim=1)[:, :4]
    inside = [{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}]
    assert [set(row.tolist()) for row in order] == inside


@pytest.mark.parametrize("hidden", [0, 3])
def test_training_in_bfloat16_agrees_with_the_fused_kernel(hidden: int) -> None:
    """Where another kernel is faster, it gives the same states and gradients but for bfloat16's rounding."""
    torch.manual_seed(0)
    mask = None
    if hidden:
        mask = torch.ones(3, 1, 1, 21, dtype=torch.bool)
        mask[1, ..., -hidden:] = False
    inputs = [torch.randn(3, 4, 21, 16).bfloat16() for _ in range(3)]
    exact = [item.float().requires_grad_() for item in inputs]
    rounded = [item.clone().requires_grad_() for item in inputs]
    weights = torch.randn(3, 4, 21, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=mask)
    found = attention(*rounded, mask=mask)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    for one, other in zip(rounded, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad.float() - other.grad).norm() < 0.02 * other.grad.norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_query_that_sees_nothing_has_finite_gradients(precision: torch.dtype) -> None:
    """As of an image without regions; the other images' gradients are those that they have alone."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 5, 8).to(precision).requires_grad_() for _ in range(3)]
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1] = False
    attention(*inputs, mask=mask)[:1].sum().backward()
    alone = [item.detach()[:1].clone().requires_grad_() for item in inputs]
    attention(*alone, mask=mask[:1]).sum().backward()
    for together, one in zip(inputs, alone, strict=True):
        assert together.grad is not None and one.grad is not None
        torch.testing.assert_close(together.grad[:1], one.grad)
        assert not together.grad[1].any()


def test_an_image_without_regions_has_finite_gradients_in_bfloat16() -> None:
    torch.manual_seed(0)
    config = FusionConfig(operator="coattention", text="scratch", width=32, heads=4, layers=2, max_text=16)
    model = FusionModel(config, WIDTHS).train()
    keys = batch()["keys"]
    valid = keys.valid.clone()
    valid[1] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.match(TEXTS, {"keys": replace(keys, valid=valid)}, ("keys",)).float().sum()
    loss.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())
