"""Each backend against its own library: equal tokens, equal pixels, and clear refusals."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders_checkpoints import hf_checkpoint, timm_checkpoint
from encoders_folders import convnext_processor, hf_folder, open_clip_folder, picture, timm_folder
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from safetensors.torch import save_file

from encoders import load_encoder
from encoders.base import Encoder
from encoders.described import from_hf, from_open_clip, from_timm
from encoders.errors import EncoderError
from encoders.hf_encoder import IDLE
from encoders.preprocess import Preprocess
from encoders.timm_encoder import built

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
SHAPES = [(96, 80), (80, 96), (64, 64), (65, 131), (40, 30), (300, 63)]


def load(text: str) -> Encoder:
    return load_encoder(text)


def rows(features: torch.Tensor) -> torch.Tensor:
    """b c h w as tokens, written out by hand."""
    return torch.stack([features[:, :, y, x] for y in range(features.shape[2]) for x in range(features.shape[3])], 1)


@torch.no_grad()
def test_timm_vit_tokens(tmp_path: Path) -> None:
    model = timm_folder(tmp_path / "vit")
    encoder = load(f"timm:{tmp_path}/vit")
    assert (encoder.name, encoder.width, encoder.grid, encoder.num_prefix) == ("timm:vit", 48, (4, 4), 1)
    assert torch.equal(encoder.tokens(IMAGES), model.forward_features(IMAGES))
    options = {"output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
    [(grid, prefix)] = model.forward_intermediates(IMAGES, indices=[1], **options)
    for layer in (1, -2):
        assert torch.equal(load(f"timm:{tmp_path}/vit?layer={layer}").tokens(IMAGES), torch.cat([prefix, grid], 1))


@torch.no_grad()
def test_timm_map_tokens(tmp_path: Path) -> None:
    model = timm_folder(tmp_path / "net", kind="convnext")
    encoder = load(f"timm:{tmp_path}/net")
    assert (encoder.width, encoder.grid, encoder.num_prefix) == (64, (2, 2), 0)
    assert torch.equal(encoder.tokens(IMAGES), rows(model.forward_features(IMAGES)))
    middle = load(f"timm:{tmp_path}/net?layer=1")
    expected = model.forward_intermediates(IMAGES, indices=[1], intermediates_only=True)[0]
    assert middle.grid == (8, 8)
    assert torch.equal(middle.tokens(IMAGES), rows(expected))


@torch.no_grad()
def test_open_clip_tokens(tmp_path: Path) -> None:
    model = open_clip_folder(tmp_path / "clip")
    encoder = load(f"open_clip:{tmp_path}/clip")
    seen: list[torch.Tensor] = []
    model.visual.ln_post.register_forward_hook(lambda _module, _given, result: seen.append(result))
    model.visual.output_tokens = True
    pooled, patches = model.visual(IMAGES)
    tokens = encoder.tokens(IMAGES)
    assert (encoder.width, encoder.grid, encoder.num_prefix) == (64, (4, 4), 1)
    assert torch.equal(tokens, seen[0])
    assert torch.equal(tokens[:, 1:], patches)
    assert torch.equal(seen[0][:, 0] @ model.visual.proj, pooled)
    options = {"output_fmt": "NLC", "output_extra_tokens": True, "intermediates_only": True}
    taken = model.visual.forward_intermediates(IMAGES, indices=[0], **options)
    early = load(f"open_clip:{tmp_path}/clip?layer=0").tokens(IMAGES)
    assert torch.equal(early, torch.cat([taken["image_intermediates_prefix"][0], taken["image_intermediates"][0]], 1))


@torch.no_grad()
def test_zero_shot_scores_are_those_of_open_clip() -> None:
    import open_clip

    from encoders.demo import FOLDER
    from encoders.open_clip_encoder import load_zero_shot
    from encoders.spec import EncoderSpec

    texts = ["a red circle", "two blue squares", "stripes"]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}/clip")
    pictures = [picture(seed) for seed in range(2)]
    images = torch.stack([transform(image) for image in pictures])
    words = open_clip.get_tokenizer(f"local-dir:{FOLDER}/clip")(texts)
    expected = model.eval().requires_grad_(False).get_logits(images, words)[0]
    zero_shot = load_zero_shot(EncoderSpec.parse(f"open_clip:{FOLDER}/clip"), device="cpu")
    assert torch.equal(torch.stack([zero_shot.preprocess(image) for image in pictures]), images)
    scores = zero_shot.scores(images, texts)
    assert scores.shape == (2, 3) and torch.allclose(scores, expected, atol=1e-5)
    with pytest.raises(EncoderError, match="need open_clip"):
        load_zero_shot(EncoderSpec.parse("demo:vit"), device="cpu")


@pytest.mark.parametrize("kind", ["siglip", "coca"])
@torch.no_grad()
def test_zero_shot_scores_of_other_pairs_of_towers(tmp_path: Path, kind: str) -> None:
    """SigLIP's: a text tower of its own class beside timm's, and a bias in the logits; CoCa's: attentional pools."""
    import open_clip

    from encoders.open_clip_encoder import load_zero_shot
    from encoders.spec import EncoderSpec

    vision = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 64}
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config: dict[str, Any] = {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**vision, "timm_model_pretrained": False},
        "text_cfg": {**text, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    }
    if kind == "coca":
        tower = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32, "output_tokens": True}
        config["vision_cfg"] = {**tower, "attentional_pool": True, "attn_pooler_heads": 2}
        config["text_cfg"] = {**text, "embed_cls": True, "output_tokens": True}
        config["multimodal_cfg"] = {**text, "attn_pooler_heads": 2}
    folder = tmp_path / kind
    folder.mkdir()
    described = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": described}))
    torch.manual_seed(0)
    towers = open_clip.CoCa if kind == "coca" else open_clip.CustomTextCLIP
    made = towers(**{key: value for key, value in config.items() if key != "custom_text"})
    assert made.logit_bias.item() == -10
    weights = {name: value.contiguous() for name, value in made.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")

    texts = ["a red circle", "two blue squares", "stripes"]
    model = open_clip.create_model(f"local-dir:{folder}").eval().requires_grad_(False)
    words = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    image, written = model.encode_image(IMAGES), model.encode_text(words)
    cosine = torch.nn.functional.cosine_similarity(image[:, None], written[None], dim=2)
    zero_shot = load_zero_shot(EncoderSpec.parse(f"open_clip:{folder}"), device="cpu")
    scores = zero_shot.scores(IMAGES, texts)
    assert torch.allclose(scores, model.logit_scale.exp() * cosine - 10, atol=1e-4)
    assert float(scores.std()) > 1e-3


def test_code_of_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    """A folder whose config says that transformers may run what lies beside it."""
    from encoders.open_clip_encoder import load_zero_shot
    from encoders.spec import EncoderSpec

    open_clip_folder(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    trusting = {"hf_tokenizer_name": "own", "tokenizer_kwargs": {"trust_remote_code": True}}
    config["model_cfg"]["text_cfg"].update(trusting)
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    described = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "clip" / "tokenizer_config.json").write_text(json.dumps(described))
    (tmp_path / "clip" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(EncoderError, match="open_clip has no tokenizer for encoder .*custom code"):
        load_zero_shot(EncoderSpec.parse(f"open_clip:{tmp_path}/clip"), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
@torch.no_grad()
def test_hf_tokens(tmp_path: Path, kind: str) -> None:
    model = hf_folder(tmp_path / kind, kind=kind)
    encoder = load(f"hf:{tmp_path}/{kind}")
    output = model(pixel_values=IMAGES, output_hidden_states=True)
    assert (encoder.width, encoder.grid, encoder.num_prefix) == (48, (4, 4), 1)
    assert torch.equal(encoder.tokens(IMAGES), output.last_hidden_state)
    for layer, state in ((-2, -2), (0, 1), (1, 2)):
        assert torch.equal(load(f"hf:{tmp_path}/{kind}?layer={layer}").tokens(IMAGES), output.hidden_states[state])


@torch.no_grad()
def test_pooling_keeps_the_prefix_and_averages_cells(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    whole = load(f"timm:{tmp_path}/vit").tokens(IMAGES)
    encoder = load(f"timm:{tmp_path}/vit?pool=2x1")
    pooled = encoder.tokens(IMAGES)
    assert encoder.grid == (2, 1) and pooled.shape == (3, 3, 48)
    assert torch.equal(pooled[:, 0], whole[:, 0])
    assert torch.allclose(pooled[:, 1], whole[:, 1:9].mean(1), atol=1e-6)
    assert torch.allclose(pooled[:, 2], whole[:, 9:].mean(1), atol=1e-6)
    assert encoder.boxes.tolist() == [[0.5, 0.5, 1, 1], [0.5, 0.25, 1, 0.5], [0.5, 0.75, 1, 0.5]]


def test_bf16_is_near_float32(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    exact = load(f"timm:{tmp_path}/vit?dtype=fp32").tokens(IMAGES)
    rough = load(f"timm:{tmp_path}/vit?dtype=bf16").tokens(IMAGES)
    assert rough.dtype is torch.float32 and not torch.equal(exact, rough)
    assert float((exact - rough).norm() / exact.norm()) < 2e-2


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("crop", [("center", 0.9), ("squash", 1.0), ("border", 0.95), ("center", 1.0)])
def test_timm_pixels(size: tuple[int, int], mode: str, crop: tuple[str, float]) -> None:
    from timm.data import create_transform

    config = {"interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    for shape in ((3, 64, 64), (3, 48, 64)):
        full = {**config, "input_size": shape, "crop_mode": crop[0], "crop_pct": crop[1]}
        image = picture(1, size=size, mode=mode)
        assert torch.equal(from_timm(full)(image), create_transform(**full)(image.convert("RGB")))


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_open_clip_pixels(size: tuple[int, int], mode: str, resize_mode: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    image = picture(2, size=size, mode=mode)
    for target in (64, (48, 64)):
        config = {"size": target, "interpolation": "bicubic", "resize_mode": resize_mode, "fill_color": 0}
        config |= {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
        expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(image)
        assert torch.equal(from_open_clip(config)(image), expected)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["ViT", "Bit", "CLIP", "Siglip", "ConvNext"])
def test_hf_pixels(size: tuple[int, int], mode: str, kind: str) -> None:
    import transformers

    sizes = {
        "ViT": {"size": {"height": 48, "width": 64}},
        "Bit": {"size": {"shortest_edge": 71}, "crop_size": {"height": 64, "width": 64}},
        "CLIP": {"size": {"shortest_edge": 64}, "crop_size": {"height": 80, "width": 49}},
        "Siglip": {"size": {"height": 64, "width": 64}},
        "ConvNext": {"size": {"shortest_edge": 64}, "crop_pct": 0.875},
    }
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**sizes[kind])
    image = picture(3, size=size, mode=mode)
    described = {**processor.to_dict(), "image_processor_type": f"{kind}ImageProcessor"}
    expected = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(from_hf(described)(image), expected)


def transparent(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture with an alpha channel; `tRNS` after a mode: with one transparent colour, as PNG has it."""
    plain, _, one = mode.partition(" ")
    image = picture(4, size=size, mode=plain)
    if one:
        file = io.BytesIO()
        colour = image.getpixel((0, 0))
        image.save(file, "PNG", transparency=colour)
        return Image.open(file)
    if plain.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P tRNS", "L tRNS", "RGB tRNS", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("size", SHAPES[::3])
def test_transparency_is_what_each_library_makes_of_it(size: tuple[int, int], mode: str) -> None:
    """transformers puts it on white where it converts to RGB; open_clip and timm drop it, and pad grey."""
    import transformers
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from timm.data import create_transform

    means: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    clip = {"size": (48, 64), "interpolation": "bicubic", "resize_mode": "longest", "fill_color": 127, **means}
    vit = {"input_size": (3, 48, 64), "interpolation": "bicubic", "crop_mode": "border", "crop_pct": 0.9, **means}
    processors = [
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 80, "width": 49}),
        transformers.ViTImageProcessorPil(size={"height": 48, "width": 64}, do_convert_rgb=True),
    ]
    image = transparent(mode, size)
    for processor in processors:
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(from_hf(processor.to_dict())(image), expected)
    kept = transformers.ViTImageProcessorPil(size={"height": 48, "width": 64})
    opaque = kept(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(from_hf(kept.to_dict())(image), opaque)
    assert torch.equal(from_open_clip(clip)(image), image_transform_v2(PreprocessCfg(**clip), is_train=False)(image))
    assert torch.equal(from_timm(vit)(image), create_transform(**vit)(image.convert("RGB")))


def test_transparency_is_described_where_it_shows() -> None:
    """Elsewhere the description is what it always was, and so are fingerprints."""
    plain = Preprocess("exact", (64, 64), "bicubic", None, (0.5,) * 3, (0.5,) * 3)
    assert "transparency" not in plain.describe()
    assert replace(plain, transparency="white").describe() == {**plain.describe(), "transparency": "white"}


def test_loaded_encoder_has_its_checkpoints_preprocessing(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit", std=[0.5, 0.5, 0.5], crop_mode="squash", crop_pct=1.0)
    open_clip_folder(tmp_path / "clip", resize_mode="squash")
    hf_folder(tmp_path / "dino")
    vit = load(f"timm:{tmp_path}/vit").preprocess
    assert (vit.resize, vit.size, vit.std) == ("exact", (64, 64), (0.5, 0.5, 0.5))
    assert load(f"open_clip:{tmp_path}/clip").preprocess.resize == "exact"
    dino = load(f"hf:{tmp_path}/dino").preprocess
    assert (dino.size, dino.interpolation, dino.centring) == ((64, 64), "bilinear", "floor")
    json.dumps(dino.describe())


def test_fingerprint_follows_what_decides_the_values(tmp_path: Path) -> None:
    timm_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    timm_folder(tmp_path / "other_weights", seed=1)
    timm_folder(tmp_path / "other_pixels", mean=[0.5, 0.46, 0.41])
    shutil.copytree(tmp_path / "a", tmp_path / "other_heads")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["model_args"]["num_heads"] = 4
    (tmp_path / "other_heads" / "config.json").write_text(json.dumps(config))
    base = load(f"timm:{tmp_path}/a").fingerprint
    assert len(base) == 64
    assert load(f"x=timm:{tmp_path}/moved").fingerprint == base
    changed = [
        "other_weights",
        "other_pixels",
        "other_heads",
        "a?pool=2x2",
        "a?layer=-1",
        "a?layer=-2",
        "a?dtype=bf16",
    ]
    assert len({base, *(load(f"timm:{tmp_path}/{name}").fingerprint for name in changed)}) == len(changed) + 1


@torch.no_grad()
def test_fingerprint_follows_what_timm_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two revisions of a hub repository: the same weights, another activation or number of heads in the config."""
    timm_folder(tmp_path / "net")
    local = load(f"timm:{tmp_path}/net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())

    def fetched(*given: str, filename: str = "", **_more: object) -> str:
        file = tmp_path / "net" / (filename or given[1])
        if not file.exists():
            raise EntryNotFoundError(file.name)
        return str(file)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetched)
    found = [local.fingerprint]
    for changed in ({}, {"act_layer": "quick_gelu"}, {"num_heads": 4}, {"drop_path_rate": 0.1}):
        described = {**config, "model_args": {**config["model_args"], **changed}}
        (tmp_path / "net" / "config.json").write_text(json.dumps(described))
        found.append(load("timm:org/net").fingerprint)
    assert found[0] == found[1] == found[4] and len(set(found)) == 3


def test_what_timm_built_is_its_numbers_words_and_functions() -> None:
    """Epsilons, which no repr of the whole shows, and functions; not the head, nor what only training reads."""
    import timm
    from timm.layers import LayerNorm

    def model(**more: Any) -> str:
        module: Any = timm.create_model("vit_tiny_patch16_224", depth=1, **more)
        module.reset_classifier(0)
        return built(module)

    plain = model()
    assert plain == model(num_classes=7, drop_rate=0.5, proj_drop_rate=0.1, drop_path_rate=0.2)
    others = [{"norm_layer": partial(LayerNorm, eps=1e-3)}, {"act_layer": torch.nn.SiLU}, {"no_embed_class": True}]
    assert len({plain, *(model(**other) for other in others)}) == 4

    class Named(torch.nn.Module):
        def __init__(self, act: object, unused: object = None) -> None:
            super().__init__()
            self.act, self.unused = act, unused

    functions = [torch.sigmoid, torch.tanh, partial(torch.clamp, min=0), partial(torch.clamp, min=1)]
    made = [Named(function) for function in functions]
    assert len({built(one) for one in made}) == 4
    assert built(made[0]) == built(Named(torch.sigmoid, unused=False))


def test_class_tokens_without_a_grid_are_refused(tmp_path: Path) -> None:
    """PiT's features are its class token; its last map has the name of a layer."""
    timm_checkpoint(tmp_path / "pit", "pit_ti_224")
    with pytest.raises(EncoderError, match="gives 1 tokens of a 224x224 image, which are no grid; layer=-1 gives"):
        load(f"timm:{tmp_path}/pit")
    assert load(f"timm:{tmp_path}/pit?layer=-1").grid == (7, 7)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(EncoderError, match=f"device '{device}' cannot be used .*choices are cpu") as caught:
            load_encoder("demo:vit", device=device)
        assert "\n" not in str(caught.value)


def test_refusals_are_one_line_that_names_the_value(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    shutil.copytree(tmp_path / "vit", tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    hf_folder(tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").unlink()
    cases = {
        "timm:vit_smal_patch16_224": "vit_small_patch16_224",
        "timm:vit_small_patch16_224.augreg_in1kk": "augreg_in1k",
        "open_clip:ViT-B-23/openai": "ViT-B-32",
        "open_clip:ViT-B-32/openay": "openai",
        "demo:no_such": "unknown demo encoder",
        f"timm:{tmp_path}/vti": "'vit'",
        f"timm:{tmp_path}/pickled": "pickled weights",
        f"timm:{tmp_path}/torn": "no whole safetensors",
        f"hf:{tmp_path}/hf": "preprocessor_config.json",
        f"hf:{tmp_path}/vit": "lacks 'model_type'",
        f"open_clip:{tmp_path}/vit": "open_clip_config.json",
        f"timm:{tmp_path}/vit?layer=3": "layer=3",
        f"timm:{tmp_path}/vit?pool=5x4": "grid, which is 4x4",
    }
    for text, words in cases.items():
        with pytest.raises(EncoderError, match=words) as caught:
            load(text)
        assert "\n" not in str(caught.value)


def test_numbers_of_a_processor_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    """One mean for all channels is a number; a number that is absent is named."""
    hf_folder(tmp_path / "dino")
    file = tmp_path / "dino" / "preprocessor_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "image_mean": 0.5, "image_std": 0.25}))
    assert load(f"hf:{tmp_path}/dino").preprocess.mean == (0.5, 0.5, 0.5)
    assert load(f"hf:{tmp_path}/dino").preprocess.std == (0.25, 0.25, 0.25)
    config = {**described, "image_processor_type": "ViTImageProcessor"}
    for key, value in (("resample", None), ("rescale_factor", None), ("image_mean", None), ("image_std", [1, None, 1])):
        with pytest.raises(EncoderError, match=f"^ViTImageProcessor with {key} None, where a number is needed$"):
            from_hf({**config, key: value})
    file.write_text(json.dumps({**described, "rescale_factor": None}))
    with pytest.raises(EncoderError, match=f"^encoder .*{tmp_path}/dino: ViTImageProcessor with rescale_factor None"):
        load(f"hf:{tmp_path}/dino")
    with pytest.raises(EncoderError, match=r"with resample 9, .* 3 \(bicubic\)"):
        from_hf({**config, "resample": 9})
    unused = {"resample": None, "do_resize": False, "do_center_crop": True, "crop_size": 64, "rescale_factor": None}
    assert from_hf({**config, **unused, "do_rescale": False}).scale is None


def test_fingerprint_of_hf_leaves_out_what_no_token_depends_on(tmp_path: Path) -> None:
    hf_checkpoint(tmp_path / "vit", "vit_classifier")
    file = tmp_path / "vit" / "config.json"
    config = json.loads(file.read_text())

    def fingerprint(**changed: Any) -> str:
        file.write_text(json.dumps({**config, **changed}))
        return load(f"hf:{tmp_path}/vit").fingerprint

    plain = fingerprint()
    idle: dict[str, Any] = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    idle |= {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.5}
    assert fingerprint(**idle, problem_type="regression") == plain
    for key, value in (("hidden_act", "relu"), ("layer_norm_eps", 1e-3), ("num_attention_heads", 6)):
        assert fingerprint(**{key: value}) != plain


def test_settings_on_which_no_token_depends() -> None:
    left_out = ["id2label", "label2id", "num_labels", "problem_type", "initializer_range", "initializer_factor"]
    left_out += ["attention_dropout", "hidden_dropout_prob", "dropout_rate", "drop_path_rate", "drop_rate"]
    left_out += ["attention_drop_rate", "drop_connect_rate", "classifier_dropout_prob"]
    kept = ["layer_scale_init_value", "mask_ratio", "hidden_act", "num_layers", "sequence_reduction_ratios", "qkv_bias"]
    assert [key for key in [*left_out, *kept] if not IDLE.fullmatch(key)] == kept


def test_models_without_a_last_hidden_state_are_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig, ViTImageProcessor

    names = [f"stage{number}" for number in range(1, 5)]
    backbone = SwinConfig(embed_dim=16, depths=[1] * 4, num_heads=[1, 2, 2, 4], window_size=2, out_features=names)
    small = {"feature_size": 32, "hidden_dim": 32, "mask_feature_size": 32, "encoder_layers": 1, "decoder_layers": 2}
    small |= {"num_attention_heads": 2, "dim_feedforward": 32, "encoder_feedforward_dim": 32}
    Mask2FormerModel(Mask2FormerConfig(backbone_config=backbone, **small)).save_pretrained(tmp_path / "net")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "net")
    with pytest.raises(EncoderError, match="fails on a 64x64 image: .* has no attribute 'last_hidden_state'") as caught:
        load(f"hf:{tmp_path}/net")
    assert "\n" not in str(caught.value)


def test_convnext_processor_of_transformers_is_described(tmp_path: Path) -> None:
    hf_folder(tmp_path / "hf")
    convnext_processor(tmp_path / "hf")
    preprocess = load(f"hf:{tmp_path}/hf").preprocess
    assert (preprocess.resize, preprocess.size, preprocess.crop) == ("shortest", (73, 73), (64, 64))


def test_demo_folders_load_by_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from encoders import demo

    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    timm_folder(tmp_path / "vit")
    (tmp_path / "vit" / "demo.json").write_text('{"backend": "timm", "pool": "2x2", "objective": "shape"}')
    encoder = load("eye=demo:vit")
    assert (encoder.alias, encoder.name, encoder.grid) == ("eye", "demo:vit", (2, 2))
    assert encoder.fingerprint == load(f"timm:{tmp_path}/vit?pool=2x2").fingerprint
    assert load("demo:vit?pool=4x4").grid == (4, 4)


def test_shipped_demo_encoders_load() -> None:
    from encoders.demo import demo_names

    for name in demo_names():
        encoder = load(f"demo:{name}")
        height, width = encoder.preprocess.output
        assert encoder.tokens(torch.zeros(1, 3, height, width)).shape == (
            1,
            encoder.num_tokens,
            encoder.width,
        )
