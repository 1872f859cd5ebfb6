"""The table of encoders against the libraries: every one is built, without weights, and its shapes are compared."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip
import timm
from timm.data import resolve_model_data_config
from transformers import ViTMAEConfig, ViTMAEModel

from encoders import load_encoder
from encoders.catalogue import CatalogueEntry, catalogue, main, sources
from encoders.errors import EncoderError
from encoders.hf_encoder import vision_forward
from encoders.open_clip_encoder import tower_forward
from encoders.spec import parse_specs
from encoders.timm_encoder import trunk_forward

ENTRIES = catalogue()


def test_twenty_encoders_under_names_that_can_be_typed() -> None:
    specs = parse_specs([f"{entry.alias}={entry.spec}" for entry in ENTRIES])
    assert len(specs) == len(ENTRIES) == 20


def test_every_fact_has_a_source_and_every_gap_a_note() -> None:
    for entry in ENTRIES:
        for fact in (entry.licence, entry.imagenet):
            assert entry.note if fact is None else fact.source in sources(), entry
        if entry.imagenet is not None:
            assert 0 < entry.imagenet.value < 1
            assert entry.imagenet.protocol in ("fine-tuned", "linear", "zero-shot")
        assert re.fullmatch("[0-9a-f]{40}", entry.revision)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.alias for entry in ENTRIES])
@torch.no_grad()
def test_shapes_are_those_of_the_library(entry: CatalogueEntry) -> None:
    backend, _, name = entry.spec.partition(":")
    with torch.device("meta"):
        if backend == "timm":
            model: Any = timm.create_model(name, pretrained=False, num_classes=0).eval()
            described = timm.get_pretrained_cfg(name)
            assert described is not None and entry.licence is not None
            assert (described.hf_hub_id, described.license) == (entry.checkpoint, entry.licence.value)
            assert resolve_model_data_config(model)["input_size"] == (3, *entry.resolution)
            forward = trunk_forward(model)
        elif backend == "hf":
            assert name == entry.checkpoint == "facebook/vit-mae-base"  # whose values are the defaults
            model = ViTMAEModel(ViTMAEConfig()).eval()
            forward = vision_forward(model)
        else:
            architecture, _, tag = name.partition("/")
            config = open_clip.get_model_config(architecture)
            described = open_clip.get_pretrained_cfg(architecture, tag)
            assert described["hf_hub"].strip("/") == entry.checkpoint
            assert (config["vision_cfg"]["image_size"],) * 2 == entry.resolution
            small = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}
            model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], small).eval()
            forward = tower_forward(model.visual)
        [found] = forward(torch.empty(1, 3, *entry.resolution), [None])
    assert found.grid.shape == (1, *entry.grid, entry.width)
    assert found.prefix.shape[1] == entry.prefix


DOWNLOADS = ("timm.models._hub", "open_clip.pretrained", "transformers.utils.hub")


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.alias for entry in ENTRIES])
def test_a_spec_is_pinned_as_the_catalogue_says(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library asks the hub for, it asks of the checkpoint's repository at that commit."""
    asked: set[tuple[str, str | None]] = set()

    def refused(repo_id: str, *_given: str, revision: str | None = None, **_more: Any) -> str:
        asked.add((repo_id, revision))
        raise OSError("the network is not asked here")

    for module in DOWNLOADS:
        monkeypatch.setattr(f"{module}.hf_hub_download", refused)
    with pytest.raises(EncoderError, match="cannot load encoder"), torch.device("meta"):
        load_encoder(f"{entry.alias}={entry.spec}?revision={entry.revision}")
    assert asked == {(entry.checkpoint, entry.revision)}


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "MIT            ab5b8ef4 open_clip:ViT-B-32/openai" in out
    assert "clip-b16        224x224    197   768 0.683 zero-shot      MIT" in out
    assert "dinov3-b16      256x256    261   768 0.850 linear" in out
