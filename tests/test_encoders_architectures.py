"""Real architectures, loaded through the spec and through their own library: equal tokens, equal pixels, to the bit.

The library's model is frozen too: torch picks other kernels for weights that carry gradients, even without any.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from encoders_checkpoints import BLOCKS, HF, hf_checkpoint, open_clip_checkpoint, timm_checkpoint
from encoders_folders import picture
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip
import timm
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModel, ViTModel

from encoders import load_encoder
from encoders.errors import EncoderError
from encoders.hf_encoder import _with_layout
from encoders.timm_encoder import trunk_forward

PT = {"format": "pt"}
SHAPES = [(250, 180), (180, 250), (40, 300)]
TIMM = {
    # name: prefix tokens, as its paper has them
    "vit_small_patch16_224": 1,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_small_patch16_dinov3": 5,
    "eva02_tiny_patch14_224": 1,
    "convnextv2_atto": 0,
    "swin_tiny_patch4_window7_224": 0,
    "volo_d1_224": 1,
    "vit_tiny_r_s16_p8_224": 1,
    "xcit_nano_12_p16_224": 1,
    "vit_base_patch16_siglip_224": 0,
    "vit_base_patch16_clip_224": 1,
    "vit_pe_core_gigantic_patch14_448": 0,
}
SMALL_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [2, 1, 1, 1], "num_heads": [2, 2, 4, 4]}
SMALL = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
ARGS: dict[str, dict[str, Any]] = {
    # Full width and resolution; of the large ones two blocks.
    "vit_small_patch14_reg4_dinov2": {"depth": 2, "img_size": 518},
    "vit_base_patch16_siglip_224": {"depth": 2},
    "vit_base_patch16_clip_224": {"depth": 2},
    "vit_pe_core_gigantic_patch14_448": {"depth": 2, "embed_dim": 192, "num_heads": 4, "img_size": 224},
}


def outputs(module: Any) -> list[Tensor]:
    """What a module gives at each of its calls from now on."""
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _module, _given, result: seen.append(result))
    return seen


def flat(features: Tensor, width: int) -> Tensor:
    """A library's features as tokens in reading order, written out by hand."""
    if features.ndim == 3:
        return features
    last = features if features.shape[-1] == width else features.permute(0, 2, 3, 1)
    return torch.stack([last[:, y, x] for y in range(last.shape[1]) for x in range(last.shape[2])], dim=1)


def noise(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm_architecture(tmp_path: Path, name: str) -> None:
    timm_checkpoint(tmp_path / "net", name, args=ARGS.get(name))
    encoder = load_encoder(f"timm:{tmp_path}/net")
    model: Any = timm.create_model(f"local-dir:{tmp_path}/net", pretrained=True).eval().requires_grad_(False)
    images = noise(encoder.preprocess.output)
    blocks = hasattr(model, "blocks")
    seen = outputs(model.blocks[1]) if blocks else []
    expected = flat(model.forward_features(images), encoder.width)
    assert torch.equal(encoder.tokens(images), expected)
    early = load_encoder(f"timm:{tmp_path}/net?layer=1")
    [inner] = seen or model.forward_intermediates(images, indices=[1], intermediates_only=True)
    assert torch.equal(early.tokens(images), flat(inner, early.width))
    assert early.num_prefix == (TIMM[name] if name != "volo_d1_224" and "xcit" not in name else 0)
    assert (encoder.width, encoder.num_prefix) == (model.num_features, TIMM[name])
    assert encoder.num_tokens == expected.shape[1]
    transform = create_transform(**resolve_model_data_config(model))
    for size in SHAPES:
        assert torch.equal(encoder.preprocess(picture(1, size=size)), transform(picture(1, size=size)))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch16_dinov3", (128, 208)),
        ("eva02_tiny_patch14_224", (112, 168)),
        ("convnextv2_atto", (96, 160)),
        ("swin_tiny_patch4_window7_224", (64, 128)),
        ("vit_tiny_r_s16_p8_224", (96, 160)),
        ("xcit_nano_12_p16_224", (96, 160)),
    ],
)
@torch.no_grad()
def test_timm_other_sizes(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    timm_checkpoint(tmp_path / "net", name, args=SMALL_SWIN if name.startswith("swin") else None)
    more = {} if name.startswith("convnext") else {"img_size": size}
    model: Any = timm.create_model(f"local-dir:{tmp_path}/net", pretrained=True, **more).eval().requires_grad_(False)
    encoder = load_encoder(f"timm:{tmp_path}/net?size={size[0]}x{size[1]}")
    images = noise(size)
    assert encoder.preprocess.output == size
    assert encoder.grid[1] / encoder.grid[0] == pytest.approx(size[1] / size[0], rel=0.2)
    assert torch.equal(encoder.tokens(images), flat(model.forward_features(images), encoder.width))
    transform = create_transform(**resolve_model_data_config(model, args={"input_size": (3, *size)}))
    for shape in SHAPES:
        assert torch.equal(encoder.preprocess(picture(1, size=shape)), transform(picture(1, size=shape)))


@torch.no_grad()
def test_tokens_before_a_row_of_cells_are_told_from_cells(tmp_path: Path) -> None:
    """At 32 down the last stage has one row: a class token and 2 cells are as many as 3 cells."""
    hf_checkpoint(tmp_path / "dino", "dinov3_convnext")
    for height, width in ((32, 64), (64, 128)):
        for name, num_prefix, stride in (("coat_lite_tiny", 1, 32), ("mixer_s16_224", 0, 16)):
            model = timm.create_model(name, img_size=(height, width)).eval()
            tokens = trunk_forward(model)(noise((height, width)), [None])[0]
            cells = (height // stride, width // stride)
            assert (tokens.prefix.shape[1], *tokens.grid.shape[1:3]) == (num_prefix, *cells)
        encoder = load_encoder(f"hf:{tmp_path}/dino?size={height}x{width}")
        assert (encoder.num_prefix, *encoder.grid) == (1, height // 32, width // 32)
    unknown = SimpleNamespace(model_type="kind")
    square = _with_layout(torch.zeros(1, 5, 8), noise((64, 64)), unknown)
    assert square.prefix.shape[1] == 1 and square.grid.shape[1:3] == (2, 2)
    words = "3 tokens of a kind may be 1x3 after 0 and 1x2 after 1 prefix tokens; a larger size tells them apart"
    with pytest.raises(ValueError, match=words):
        _with_layout(torch.zeros(1, 3, 8), noise((32, 64)), unknown)


@torch.no_grad()
def test_positions_are_interpolated_bicubically(tmp_path: Path) -> None:
    """timm's rule, worked by torch alone: a 2x3 grid of positions out of a 4x4 one, the class position kept."""
    args = {"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 3}
    timm_checkpoint(tmp_path / "net", "vit_tiny_patch16_224", args=args)
    stored = timm.create_model(f"local-dir:{tmp_path}/net", pretrained=True).pos_embed
    encoder = load_encoder(f"timm:{tmp_path}/net?size=32x48")
    grid = stored[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, size=(2, 3), mode="bicubic", antialias=True, align_corners=False)
    expected = torch.cat([stored[:, :1], resized.permute(0, 2, 3, 1).reshape(1, 6, 48)], dim=1)
    assert encoder.grid == (2, 3)
    assert torch.allclose(encoder.weights()["pos_embed"], expected, atol=1e-6)


TOWERS = {"ViT-S-16-alt": None, "RN50": None, "coca_ViT-B-32": 2, "ViT-L-14-CLIPA": 2}
"""open_clip's names, at full width and resolution, -> blocks, where fewer than it has."""


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_open_clip_architecture(tmp_path: Path, name: str) -> None:
    open_clip_checkpoint(tmp_path / "clip", name, layers=TOWERS[name])
    encoder, early = (load_encoder(f"open_clip:{tmp_path}/clip{more}") for more in ("", "?layer=1"))
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/clip")
    visual: Any = model.eval().requires_grad_(False).visual
    images = noise(encoder.preprocess.output)
    resnet = name == "RN50"
    blocks = [visual.layer1, visual.layer4] if resnet else [visual.transformer.resblocks[place] for place in (1, -1)]
    [second, last, normed] = [outputs(part) for part in (*blocks, visual.attnpool if resnet else visual.ln_post)]
    visual.output_tokens = True
    found = visual(images)
    tokens = encoder.tokens(images)
    assert torch.equal(early.tokens(images), flat(second[0], early.width))
    assert early.num_prefix == encoder.num_prefix == (0 if resnet else 1)
    if name == "ViT-S-16-alt":
        assert torch.equal(tokens, normed[0]) and torch.equal(tokens[:, 1:], found[1])
    else:  # these normalise what their pooling gives, if anything
        assert torch.equal(tokens, flat(last[0], encoder.width))
    if name == "ViT-L-14-CLIPA":
        assert torch.equal(tokens[:, 1:], found[1])
    for size in SHAPES:
        assert torch.equal(encoder.preprocess(picture(1, size=size)), transform(picture(1, size=size)))


@torch.no_grad()
def test_open_clip_runs_weights_with_the_activation_they_were_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip's own table of weights under a small configuration, such as ViT-B-32, that does not name QuickGELU."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    open_clip_checkpoint(tmp_path / "clip", vision)
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())["model_cfg"]
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    (tmp_path / "ViT-B-32.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path / "ViT-B-32.json")
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
    images, fingerprints = noise((32, 32)), set()
    for tag, quick_gelu in {"openai": True, "laion2b_s34b_b79k": False}.items():
        expected: Any = open_clip.CLIP(**config, quick_gelu=quick_gelu).eval()
        open_clip.load_checkpoint(expected, str(weights))
        encoder = load_encoder(f"open_clip:ViT-B-32/{tag}")
        normed = outputs(expected.visual.ln_post)
        expected.visual(images)
        assert torch.equal(encoder.tokens(images), normed[0])
        fingerprints.add(encoder.fingerprint)
    assert len(fingerprints) == 2


def test_timm_weights_with_another_activation_are_refused(tmp_path: Path) -> None:
    """timm has OpenAI's weights twice; under one of the names with another activation than theirs."""
    timm_checkpoint(tmp_path / "clip", "vit_base_patch32_clip_224", args={"depth": 1}, tag="openai")
    with pytest.raises(EncoderError, match="name timm:vit_base_patch32_clip_quickgelu_224.openai"):
        load_encoder(f"timm:{tmp_path}/clip")
    timm_checkpoint(tmp_path / "right", "vit_base_patch32_clip_quickgelu_224", args={"depth": 1}, tag="openai")
    assert load_encoder(f"timm:{tmp_path}/right").num_prefix == 1


def test_encoders_that_shuffle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' masked autoencoder, left to itself."""
    hf_checkpoint(tmp_path / "model", "mae")
    monkeypatch.setattr("encoders.hf_encoder._in_order", lambda _images, _patch_size: {})
    with pytest.raises(EncoderError, match="other tokens for the same image"):
        load_encoder(f"hf:{tmp_path}/model")


@pytest.mark.parametrize("kind", ["own", "timm"])
@torch.no_grad()
def test_open_clip_other_sizes(tmp_path: Path, kind: str) -> None:
    own = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    trunk = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    open_clip_checkpoint(tmp_path / "clip", own if kind == "own" else trunk, resize_mode="squash")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/clip", force_image_size=(48, 80))
    encoder = load_encoder(f"open_clip:{tmp_path}/clip?size=48x80")
    visual: Any = model.eval().requires_grad_(False).visual
    images = noise((48, 80))
    assert (encoder.grid, encoder.num_prefix) == ((3, 5), 1)
    if kind == "own":
        normed = outputs(visual.ln_post)
        visual(images)
        assert torch.equal(encoder.tokens(images), normed[0])
    else:
        assert torch.equal(encoder.tokens(images), visual.trunk.forward_features(images))
    for shape in SHAPES:
        assert torch.equal(encoder.preprocess(picture(1, size=shape)), transform(picture(1, size=shape)))


PREFIX = {
    **dict.fromkeys(("clip", "beit", "mae", "dinov3_convnext", "vit_classifier", "dinov2_classifier"), 1),
    **{"deit": 2, "deit_classifier": 2, "dinov2_reg_small": 5, "dinov3_small": 5},
}


def hf_tower(folder: Path, name: str) -> Any:
    """The library's own image tower; a masked autoencoder's weights are those of a ViT, which masks nothing."""
    kind: Any = ViTModel if name == "mae" else AutoModel
    more = {"add_pooling_layer": False} if name == "mae" else {}
    model = kind.from_pretrained(folder, **more).eval().requires_grad_(False)
    return getattr(model, "vision_model", model)


@pytest.mark.parametrize("name", HF)
@torch.no_grad()
def test_hf_architecture(tmp_path: Path, name: str) -> None:
    hf_checkpoint(tmp_path / "model", name)
    encoder = load_encoder(f"hf:{tmp_path}/model")
    tower = hf_tower(tmp_path / "model", name)
    images = noise(encoder.preprocess.output)
    output = tower(pixel_values=images, output_hidden_states=True)
    assert torch.equal(encoder.tokens(images), flat(output.last_hidden_state, encoder.width))
    assert encoder.num_prefix == PREFIX.get(name, 0)
    assert load_encoder(f"hf:{tmp_path}/model").fingerprint == encoder.fingerprint
    last = load_encoder(f"hf:{tmp_path}/model?layer=-1")
    assert torch.equal(last.tokens(images), flat(output.hidden_states[-1], last.width))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    for size in SHAPES:
        expected = processor(picture(1, size=size), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(encoder.preprocess(picture(1, size=size)), expected)


@pytest.mark.parametrize("name", ["hiera", "pvt_v2", "cvt", "swin"])
@torch.no_grad()
def test_hf_stages_are_maps_in_reading_order(tmp_path: Path, name: str) -> None:
    """The first of the library's hidden states is an embedding, but for PVTv2 and CvT."""
    hf_checkpoint(tmp_path / "model", name)
    tower = hf_tower(tmp_path / "model", name)
    images = noise((64, 64))
    hidden = tower(pixel_values=images, output_hidden_states=True).hidden_states
    stages = hidden if name in ("pvt_v2", "cvt") else hidden[1:]
    for layer, stage in enumerate(stages):
        encoder = load_encoder(f"hf:{tmp_path}/model?layer={layer}&dtype=fp32")
        tokens = encoder.tokens(images)
        edge = max(2, (8 if name == "swin" else 16) >> layer)  # Swin halves its grid at the end of a stage
        assert (encoder.grid, encoder.num_prefix) == ((edge, edge), 0)
        if name != "hiera":  # whose own are in another order
            assert torch.equal(tokens, flat(stage, encoder.width))
        assert torch.equal(tokens, load_encoder(f"hf:{tmp_path}/model?layer={layer - len(stages)}").tokens(images))
    with pytest.raises(EncoderError, match=f"layer={len(stages)} is outside its {len(stages)} layers"):
        load_encoder(f"hf:{tmp_path}/model?layer={len(stages)}")


@torch.no_grad()
def test_hiera_tokens_lie_where_they_look(tmp_path: Path) -> None:
    """The first stage of 8x8 windows sees no further than its window: what changes is where a pixel was changed."""
    hf_checkpoint(tmp_path / "model", "hiera")
    encoder = load_encoder(f"hf:{tmp_path}/model?layer=0&dtype=fp32")
    images = noise((64, 64), count=1)
    before = encoder.tokens(images).reshape(16, 16, -1)
    images[:, :, 40, 10] += 5
    changed = (encoder.tokens(images).reshape(16, 16, -1) - before).abs().amax(-1) > 1e-6
    assert changed[8:, :8].any() and changed[10, 2] and int(changed.sum()) <= 64
    assert not changed[:8].any() and not changed[8:, 8:].any()
    with pytest.raises(EncoderError, match="leave layer or size away"):
        load_encoder(f"hf:{tmp_path}/model?layer=0&size=32x128")


@pytest.mark.parametrize("name", ["vit_classifier", "dinov2_classifier", "dinov3_small", "clip", "swin_classifier"])
@torch.no_grad()
def test_hf_checkpoints_that_lack_weights_are_refused(tmp_path: Path, name: str) -> None:
    """All but those on which no token depends: a mask's, and of CLIP the text tower's."""
    hf_checkpoint(tmp_path / "model", name)
    whole = load_encoder(f"hf:{tmp_path}/model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    needless = ("mask_token", "text_model.encoder")
    save_file({key: one for key, one in weights.items() if not re.search("|".join(needless), key)}, file, PT)
    images = noise(whole.preprocess.output)
    assert torch.equal(load_encoder(f"hf:{tmp_path}/model").tokens(images), whole.tokens(images))
    of_a_block = re.compile(r"\.0\..*(mlp|fc1|intermediate).*weight")
    needed = next(key for key in weights if "text_model" not in key and of_a_block.search(key))
    save_file({key: one for key, one in weights.items() if key != needed}, file, PT)
    with pytest.raises(EncoderError, match=r"lacks weights of its \w+Model.*: \S*\.0\.\S*weight"):
        load_encoder(f"hf:{tmp_path}/model")
    save_file({**weights, needed: weights[needed][:1].clone()}, file, PT)
    with pytest.raises(EncoderError, match="(?i)shape|size"):
        load_encoder(f"hf:{tmp_path}/model")


@torch.no_grad()
def test_hf_hidden_states_of_unknown_places_are_refused(tmp_path: Path) -> None:
    """PVT lists every block of its four stages; YOLOS puts tokens behind the grid."""
    from transformers import PvtConfig, PvtModel, ViTImageProcessor, YolosConfig, YolosModel

    sizes = {"hidden_sizes": [16, 24, 32, 48], "num_attention_heads": [1, 2, 2, 4], "image_size": 64}
    PvtModel(PvtConfig(**sizes, depths=[2, 1, 1, 1])).save_pretrained(tmp_path / "pvt")
    yolos = {**BLOCKS, "image_size": [64, 64], "num_detection_tokens": 9, "use_mid_position_embeddings": False}
    YolosModel(YolosConfig(**yolos)).save_pretrained(tmp_path / "yolos")
    for name in ("pvt", "yolos"):
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / name)
    with pytest.raises(EncoderError, match="gives 6 hidden states of a pvt with 4 layers"):
        load_encoder(f"hf:{tmp_path}/pvt?layer=0")
    with pytest.raises(EncoderError, match="26 tokens are more than 4x4 patches with class and register tokens"):
        load_encoder(f"hf:{tmp_path}/yolos")


@pytest.mark.parametrize(
    "name", ["dinov2_reg_small", "dinov3_small", "siglip", "clip", "beit", "swin", "convnextv2_atto", "mae"]
)
@torch.no_grad()
def test_hf_other_sizes(tmp_path: Path, name: str) -> None:
    hf_checkpoint(tmp_path / "model", name)
    size = {"dinov2_reg_small": (112, 224), "convnextv2_atto": (128, 256)}.get(name, (64, 128))
    encoder = load_encoder(f"hf:{tmp_path}/model?size={size[0]}x{size[1]}")
    tower = hf_tower(tmp_path / "model", name)
    images = noise(size)
    more = {} if name.startswith(("dino", "conv")) else {"interpolate_pos_encoding": True}
    expected = tower(pixel_values=images, **more).last_hidden_state
    assert torch.equal(encoder.tokens(images), flat(expected, encoder.width))
    assert encoder.grid[1] == 2 * encoder.grid[0] and encoder.preprocess.output == size


@pytest.mark.parametrize("name", ["dinov2_reg_small", "dinov3_small", "convnextv2_atto", "clip", "siglip", "levit"])
def test_hf_pixels_at_another_square_size(tmp_path: Path, name: str) -> None:
    """The processor with its own sizes changed in proportion; 256 over 224 of 448 is 512."""
    from encoders.described import from_hf

    hf_checkpoint(tmp_path / "model", name)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    described = {**processor.to_dict(), "image_processor_type": type(processor).__name__.removesuffix("Pil")}
    edge = {"dinov2_reg_small": 512, "clip": 448, "convnextv2_atto": 448, "levit": 448}.get(name)
    processor.size = {"shortest_edge": edge} if edge else {"height": 448, "width": 448}
    cropped = {"crop_size": {"height": 448, "width": 448}} if name in ("dinov2_reg_small", "clip", "levit") else {}
    for shape in SHAPES:
        image = picture(1, size=shape)
        expected = processor(image, size=processor.size, return_tensors="pt", **cropped)["pixel_values"][0]
        assert torch.equal(from_hf(described, size=(448, 448))(image), expected)


def test_what_is_no_image_model_with_a_fixed_size_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, Siglip2ImageProcessor, ViTImageProcessor

    hf_checkpoint(tmp_path / "naflex", "siglip")
    Siglip2ImageProcessor().save_pretrained(tmp_path / "naflex")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes, vocab_size=32)).save_pretrained(tmp_path / "bert")
    ViTImageProcessor().save_pretrained(tmp_path / "bert")
    timm_checkpoint(tmp_path / "vit", "vit_tiny_patch16_224", args=SMALL)
    cases = {
        f"hf:{tmp_path}/naflex": "Siglip2ImageProcessor has its own _preprocess",
        f"hf:{tmp_path}/bert": "BertModel, which takes no images",
        f"timm:{tmp_path}/vit?size=60x70": "size 60x70 .* patches of 16x16; the nearest is 64x64",
        f"hf:{tmp_path}/naflex?size=65": "size 65x65 .* patches of 16x16; the nearest is 64x64",
        f"timm:{tmp_path}/vit?revision=main": "revision=main",
        f"timm:{tmp_path}/vit?layer=0,5&join=tokens": "feature index 5",
        f"timm:{tmp_path}/vit?layer=0,1": "join=width or join=tokens",
    }
    for text, words in cases.items():
        with pytest.raises(EncoderError, match=words) as caught:
            load_encoder(text)
        assert "\n" not in str(caught.value)


def test_object_queries_are_no_tokens() -> None:
    config = SimpleNamespace(model_type="detr", num_queries=100)
    with pytest.raises(ValueError, match="100 states of a detr are of object queries"):
        _with_layout(torch.zeros(1, 100, 8), noise((64, 64)), config)
