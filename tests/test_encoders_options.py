"""What the options of a spec do to tokens, boxes and fingerprints; several variants of one model in one pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SOAK
from encoders_folders import hf_folder, open_clip_folder, picture, pictures, timm_folder
from PIL import Image

from encoders import load_encoder
from encoders.errors import EncoderError
from encoders.extract import extract
from encoders.module import tokens_together
from encoders.options import OPTIONS, OWN, read_settings
from encoders.pooling import grid_shape
from encoders.preprocess import Preprocess
from encoders.spec import EncoderSpec, parse_specs
from encoders.store import FeatureStore

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vit` (3 blocks, width 48), `net` (ConvNeXt), `clip` and `dino`."""
    root = tmp_path_factory.mktemp("checkpoints")
    timm_folder(root / "vit")
    timm_folder(root / "net", kind="convnext")
    open_clip_folder(root / "clip")
    hf_folder(root / "dino")
    return root


@pytest.mark.parametrize("backend", ["timm:{}/vit", "open_clip:{}/clip", "hf:{}/dino"])
def test_joined_layers_are_the_layers_side_by_side_or_in_a_row(folder: Path, backend: str) -> None:
    spec = backend.format(folder)
    first, last, final = (load_encoder(f"{spec}?layer={layer}").tokens(IMAGES) for layer in ("0", "-1", "final"))
    wide = load_encoder(f"{spec}?layer=-1,0,final&join=width")
    assert wide.width == 3 * first.shape[2] and (wide.grid, wide.num_prefix) == ((4, 4), 1)
    assert torch.equal(wide.tokens(IMAGES), torch.cat([last, first, final], dim=2))
    row = load_encoder(f"{spec}?layer=-1,0,final&join=tokens")
    assert (row.num_prefix, row.num_grids, row.num_tokens) == (3, 3, 51)
    parts = [last, first, final]
    expected = torch.cat([*(part[:, :1] for part in parts), *(part[:, 1:] for part in parts)], dim=1)
    assert torch.equal(row.tokens(IMAGES), expected)
    assert row.boxes.shape == (51, 4) and torch.equal(row.boxes[3:19], row.boxes[35:51])


def test_stages_join_once_their_grids_are_equal(folder: Path) -> None:
    with pytest.raises(EncoderError, match="join=width needs layers of one grid: 8x8 of width 24"):
        load_encoder(f"timm:{folder}/net?layer=1,3&join=width")
    joined = load_encoder(f"timm:{folder}/net?layer=1,3&join=width&pool=2x2")
    one, other = (load_encoder(f"timm:{folder}/net?layer={n}&pool=2x2").tokens(IMAGES) for n in (1, 3))
    assert joined.width == 24 + 64 and torch.equal(joined.tokens(IMAGES), torch.cat([one, other], dim=2))
    with pytest.raises(EncoderError, match="join=tokens needs layers of one width"):
        load_encoder(f"timm:{folder}/net?layer=1,3&join=tokens&pool=2x2")


def test_several_layers_are_several_encoders(folder: Path) -> None:
    specs = parse_specs([f"vit=timm:{folder}/vit?layer=0,-2,final&pool=2x2", "demo:clip"])
    assert [spec.alias for spec in specs] == ["vit-layer0", "vit-layer-2", "vit-final", "clip"]
    assert [spec.settings().layers for spec in specs[:3]] == [(0,), (-2,), (None,)]
    assert all(spec.settings().pool == (2, 2) for spec in specs[:3])
    assert [EncoderSpec.parse(str(spec)) for spec in specs] == specs


def test_prefix_can_be_dropped(folder: Path) -> None:
    kept, dropped = (load_encoder(f"timm:{folder}/vit?prefix={word}") for word in ("keep", "drop"))
    assert (kept.num_prefix, dropped.num_prefix) == (1, 0)
    assert torch.equal(dropped.tokens(IMAGES), kept.tokens(IMAGES)[:, 1:])
    assert torch.equal(dropped.boxes, kept.boxes[1:])


def test_variants_of_one_model_share_a_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["", "?pool=2x2", "?layer=0", "?layer=-1,0&join=width", "?dtype=fp32", "?dtype=bf16"]
    encoders = [load_encoder(f"timm:{folder}/vit{option}") for option in options]
    encoders.append(load_encoder(f"hf:{folder}/dino"))
    apart = [encoder.tokens(IMAGES) for encoder in encoders]
    passes = []
    for encoder in encoders:
        forward = encoder._forward  # type: ignore[attr-defined]
        monkeypatch.setattr(
            encoder, "_forward", lambda images, layers, run=forward: passes.append(layers) or run(images, layers)
        )
    together = tokens_together(encoders, IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(apart, together, strict=True))
    assert [sorted(layers, key=str) for layers in passes] == [[-1, 0, None], [None], [None]]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)


def test_variants_of_one_model_share_its_weights(folder: Path) -> None:
    """One copy in memory, as long as nobody altered it; another layout or other weights are another copy."""
    specs = [f"timm:{folder}/vit{option}" for option in ("?layer=0", "?layer=1", "", "?dtype=bf16")]
    specs += [f"timm:{folder}/vit?layout=channels_last"]
    encoders = [load_encoder(spec) for spec in specs]
    places = [{name: one.data_ptr() for name, one in encoder.weights().items()} for encoder in encoders]
    assert places[0] == places[1] == places[2] == places[3] and len(places[0]) > 10
    assert not {*places[0].values()} & {*places[4].values()}
    kept = encoders[2].tokens(IMAGES)
    for one in encoders[0].weights().values():
        one.add_(1)
    again = load_encoder(specs[2])
    assert torch.equal(again.tokens(IMAGES), kept) and again.identity() == again.fingerprint


def test_every_option_that_changes_values_changes_the_fingerprint(folder: Path) -> None:
    options = ["layer=0", "layer=0,1&join=width", "layer=0,1&join=tokens", "layer=1,0&join=tokens", "pool=2x2"]
    options += ["prefix=drop", "size=64", "size=32x48", "dtype=fp32", "dtype=bf16"]
    options += ["compile=yes", "layout=channels_last"]
    found = {load_encoder(f"timm:{folder}/vit?{option}").fingerprint for option in options}
    assert len(found) == len(options)
    assert load_encoder(f"timm:{folder}/vit?views=3").fingerprint == load_encoder(f"a=timm:{folder}/vit").fingerprint


def test_views_are_crops_with_boxes_of_their_own(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(f"timm:{folder}/vit?views=3&dtype=fp32")
    assert encoder.view(0) is encoder and encoder.views == 3
    views = [encoder.view(number) for number in range(3)]
    assert len({view.fingerprint for view in views}) == 3
    image = picture(1, size=(64, 64))
    for view in views[1:]:
        left, top, width, height = view.preprocess.window
        assert width == height and 0.5 <= width * height <= 0.9
        assert min(left, top) >= 0 and max(left + width, top + height) <= 1
        # The boxes of the whole view are its window: the first cell starts at its corner, the last ends there.
        cells = view.boxes[1:]
        assert torch.allclose(cells[0, :2] - cells[0, 2:] / 2, torch.tensor([left, top]))
        assert torch.allclose(cells[-1, :2] + cells[-1, 2:] / 2, torch.tensor([left + width, top + height]))
        assert torch.allclose(view.boxes[0], torch.tensor([left + width / 2, top + height / 2, width, height]))
    plain = Preprocess(
        resize="exact", size=(64, 64), interpolation="bicubic", crop=None, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    left, top, side, _ = plain.__class__(**{**plain.__dict__, "view": 2}).window
    box = (64 * left, 64 * top, 64 * (left + side), 64 * (top + side))
    expected = image.resize((64, 64), Image.Resampling.BICUBIC, box=box)
    pixels = plain.__class__(**{**plain.__dict__, "view": 2})(image)
    assert torch.equal(
        (pixels * 255).round().to(torch.uint8).permute(1, 2, 0), torch.tensor(list(expected.getdata())).view(64, 64, 3)
    )
    with pytest.raises(EncoderError, match="views are 0 to 2"):
        encoder.view(3)
    paths = pictures(tmp_path / "images", 2)
    digests = extract(paths, views, root=tmp_path / "store", progress="none")
    for view in views:
        read = FeatureStore(tmp_path / "store", view).read([digests[path] for path in paths])
        pixels = torch.stack([view.preprocess(Image.open(path)) for path in paths])
        assert torch.allclose(read.tokens, view.tokens(pixels), atol=1e-5)
        assert torch.equal(read.boxes[0], view.boxes)


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("timm", {"layer": "1,1"}, "names a layer twice"),
        ("timm", {"layer": "1,last"}, "whole number"),
        ("timm", {"layer": "1", "join": "width"}, "needs several layers"),
        ("timm", {"layer": "1,2", "join": "wide"}, "did you mean 'width'"),
        ("timm", {"size": "224x"}, "HEIGHTxWIDTH"),
        ("timm", {"size": "0"}, "HEIGHTxWIDTH"),
        ("timm", {"views": "0"}, "1 to 99"),
        ("timm", {"views": "100"}, "1 to 99"),
        ("timm", {"prefix": "dorp"}, "did you mean 'drop'"),
        ("timm", {"compile": "on"}, "choices are no, yes"),
        ("timm", {"layout": "channel_last"}, "did you mean 'channels_last'"),
        ("regions", {"compile": "yes"}, "unknown option 'compile'"),
        ("timm", {"top": "3"}, "unknown option 'top'"),
        ("regions", {"pool": "7x7"}, "unknown option 'pool'"),
        ("demo", {"revision": "main"}, "unknown option 'revision'"),
    ],
)
def test_refused_options(backend: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(EncoderError, match=words) as caught:
        read_settings(options, backend=backend, source="a=timm:b")
    assert "a=timm:b" in str(caught.value) and backend in OWN


@pytest.mark.parametrize(
    ("count", "height", "width", "shape"),
    [
        (49, 224, 224, (7, 7)),
        (70, 224, 320, (7, 10)),
        (15, 40, 72, (3, 5)),  # stride 16 with padding: 2.5 and 4.5 rounded up
        (8, 40, 72, (2, 4)),  # and without
        (50, 224, 224, None),
    ],
)
def test_grid_of_a_count(count: int, height: int, width: int, shape: tuple[int, int] | None) -> None:
    assert grid_shape(count, height=height, width=width) == shape


@pytest.mark.parametrize("backend", ["timm:{}/net", "timm:{}/vit", "open_clip:{}/clip", "hf:{}/dino"])
def test_channels_last_gives_the_same_tokens_under_a_fingerprint_of_its_own(folder: Path, backend: str) -> None:
    plain, last = (load_encoder(f"{backend.format(folder)}?dtype=fp32{more}") for more in ("", "&layout=channels_last"))
    convolutions = [weight for weight in last.weights().values() if weight.ndim == 4 and weight.shape[1] > 1]
    assert convolutions and all(one.is_contiguous(memory_format=torch.channels_last) for one in convolutions)
    expected, found = plain.tokens(IMAGES), last.tokens(IMAGES)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert plain.fingerprint != last.fingerprint and plain.pass_key != last.pass_key
    assert load_encoder(f"{backend.format(folder)}?dtype=fp32&layout=contiguous").fingerprint == plain.fingerprint


COMPARE = """
import json, sys
from pathlib import Path
import torch
from PIL import Image
from torch._dynamo.utils import counters
from encoders import load_encoder
from encoders.extract import extract
from encoders.store import FeatureStore

spec, root, *files = sys.argv[1:]
paths = [Path(file) for file in files]
plain, fast = load_encoder(spec), load_encoder(f"{spec}&compile=yes")
assert plain.fingerprint != fast.fingerprint and plain.pass_key != fast.pass_key
pixels = torch.stack([plain.preprocess(Image.open(path)) for path in paths])
pairs = [(plain.tokens(pixels[:count]), fast.tokens(pixels[:count])) for count in (3, 2, 1)]
digests = extract(paths, [fast], root=Path(root), batch_size=3, progress="none")
pairs.append((plain.tokens(pixels), FeatureStore(Path(root), fast).read(list(digests.values())).tokens))
assert all(one.shape == other.shape for one, other in pairs)
errors = [float((one - other).norm() / one.norm()) for one, other in pairs]
print(json.dumps([errors, counters["stats"]["unique_graphs"]]))
"""
COMPILED = ["timm:{}/vit?layer=0,final&join=width"]
COMPILED += ["timm:{}/net?layout=channels_last", "open_clip:{}/clip?dtype=bf16", "hf:{}/dino?layer=-2"] if SOAK else []


@pytest.mark.parametrize("backend", COMPILED)
def test_compiled_models_give_the_same_tokens(folder: Path, tmp_path: Path, backend: str) -> None:
    """In a process of its own, without the checks of shapes that tests run under: one graph serves every batch."""
    images = pictures(tmp_path / "images", 5)
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, backend.format(folder), str(tmp_path / "store"), *map(str, images)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors, graphs = json.loads(done.stdout)
    assert max(errors) < (2e-2 if "bf16" in backend else 1e-3) and graphs == 1


def test_what_cannot_be_compiled_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def refused(*_: object) -> None:
        raise TorchDynamoException("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", lambda forward: refused)
    encoder = load_encoder(f"timm:{folder}/vit?compile=yes")
    with pytest.raises(EncoderError, match="compiled here; leave compile=yes away: no C.. compiler was found"):
        encoder.tokens(IMAGES)


def test_the_page_names_every_option() -> None:
    page = (Path(__file__).parents[1] / "docs" / "features.md").read_text()
    assert [name for name in OPTIONS if f"| `{name}` |" not in page] == []
