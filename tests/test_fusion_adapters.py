"""Adapters: how tokens are standardised, against scikit-learn, and what that makes a model blind to."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from fusion.adapters import Standardise
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.types import Features


def features(tokens: torch.Tensor) -> Features:
    batch, number, _ = tokens.shape
    boxes = torch.rand(batch, number, 4, generator=torch.Generator().manual_seed(3))
    return Features(tokens, boxes, torch.ones(batch, number, dtype=torch.bool))


def test_pieces_give_what_scikit_learn_gives_for_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1000, 5, generator=generator) * torch.tensor([1.0, 30.0, 0.1, 1.0, 0.0]) + 100 * torch.arange(5)
    module = Standardise(5)
    assert torch.equal(module(rows[None]), rows[None])  # nothing observed yet
    for piece in rows.split([1, 17, 0, 600, 382]):
        module.observe(piece)
    expected = StandardScaler().fit_transform(rows.double().numpy())
    assert np.allclose(module(rows[None])[0].numpy()[:, :4], expected[:, :4], atol=2e-2)
    assert np.allclose(module.variance.numpy()[:4], rows.double().numpy().var(axis=0)[:4], rtol=1e-3)
    assert torch.equal(module(rows[None])[0, :, 4], torch.zeros(1000))  # never varied


@pytest.mark.parametrize("place", [100.3, 0.0])
@pytest.mark.parametrize("rounding", [0.0, 1e-7, 3e-6])
def test_rounding_of_a_constant_channel_is_no_content(place: float, rounding: float) -> None:
    """Whether it is exact or off by a float's last bits, a constant channel stays near 0, and a new value there is as
    large as in the others: 10 of their deviations, not millions of its own."""
    generator = torch.Generator().manual_seed(0)
    rows = 5 * torch.randn(1000, 4, generator=generator)
    rows[:, 2] = place + rounding * (place or 5) * torch.randn(1000, generator=generator)
    module = Standardise(4)
    for piece in rows.split(300):
        module.observe(piece)
    found = module(rows[None])[0]
    assert found[:, 2].abs().max() < 1e-2
    torch.testing.assert_close(found[:, :2].std(dim=0), torch.ones(2), atol=1e-2, rtol=0)
    rows[0, 2] = place + 50
    assert 9 < module(rows[None])[0, 0, 2] < 13  # three channels of four deviate by 5: 4.3 on average


def test_a_model_does_not_see_the_scale_and_offset_of_channels() -> None:
    """Two encoders that differ by them alone lead to the same states, once both were observed."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(6, 4, 8, generator=generator)
    other = tokens * torch.linspace(0.01, 3, 8) + torch.linspace(-9, 9, 8)
    config = FusionConfig(width=32, layers=2, heads=4, text="scratch")
    states = []
    for given in (tokens, other):
        model = FusionModel(config, {"vit": 8}).eval()
        before = model.encode(["a"] * 6, {"vit": features(given)}, ("vit",)).pooled
        model.observe({"vit": features(given)})
        states.append(model.encode(["a"] * 6, {"vit": features(given)}, ("vit",)).pooled)
        assert not torch.allclose(before, states[-1], atol=1e-4)
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)


def test_padding_is_not_observed_and_unknown_encoders_are_refused() -> None:
    given = features(torch.randn(2, 3, 8))
    given.valid[0, 1:] = False
    given.tokens[0, 1:] = torch.nan
    model = FusionModel(FusionConfig(width=32, layers=1, heads=4, text="scratch"), {"vit": 8})
    model.observe({"vit": given})
    expected = given.tokens[given.valid].mean(dim=0)
    torch.testing.assert_close(model.adapters["of_vit"].standardise.mean, expected)
    with pytest.raises(FusionError, match="unknown encoder 'clip'"):
        model.observe({"clip": given})
