"""Encoders by open_clip: the image tower of MODEL/PRETRAINED, of a hub repository (`hf-hub:org/name`), or of
a local folder with `open_clip_config.json` and `open_clip_model.safetensors`. `load_zero_shot` keeps the text
tower too.

Tokens of a ViT tower are the last block's, class token first, after `ln_post` and before the projection into
the shared space; with `layer` that block's, not normalised. (Towers with attentional pooling, such as CoCa's, and
CLIPA's have their norm after the pool, so theirs are not normalised either.) ResNet towers give their last map, timm
towers what timm gives. The activation is the one that the weights were trained with: open_clip itself runs those of
OpenAI, MetaCLIP and DFN under a name such as ViT-B-32 with another one, and only warns. Code in a checkpoint is never
run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import open_clip  # type: ignore[import-untyped,unused-ignore]

from encoders.base import Encoder, check_device, one_line
from encoders.checkpoint import local_files, no_revision, whole_patches
from encoders.described import from_open_clip
from encoders.errors import EncoderError, nearest
from encoders.module import Forward, ModuleEncoder
from encoders.options import Layer
from encoders.pooling import TokenGrid, from_map, from_sequence
from encoders.preprocess import Preprocess
from encoders.spec import EncoderSpec

HUB = "hf-hub:"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
RESNET = ("stem", "layer1", "layer2", "layer3", "layer4")
TOKENIZERS = ("*.json", "*.txt", "*.model")
"""What of a hub repository may be a tokenizer's."""
FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError)


class Source(NamedTuple):
    """Where open_clip takes a model from.

    Attributes:
        model: its name, `hf-hub:REPOSITORY` or `local-dir:FOLDER`.
        pretrained: the tag of its weights or a file of them; None where they lie beside the configuration.
        described: what open_clip's table of weights says of the tag: activation and preprocessing.
    """

    model: str
    pretrained: str | None = None
    described: Mapping[str, Any] = {}


def load_open_clip(spec: EncoderSpec, *, device: str) -> Encoder:
    """The image tower that the spec names; the text tower is dropped.

    Raises:
        EncoderError: there is no such model, tag, folder or layer, or its weights cannot be had.
    """
    model, source = create(spec)
    visual: Any = model.visual
    whole_patches(spec, getattr(visual, "patch_size", None))
    return ModuleEncoder(
        spec,
        module=visual,
        forward=tower_forward(visual),
        preprocess=from_open_clip(visual.preprocess_cfg),
        architecture={"library": "open_clip", **_architecture(spec, visual, source)},
        device=device,
    )


class ZeroShot:
    """Both towers of a contrastive model: how well texts fit images, without training.

    Attributes:
        preprocess: PIL image to the pixels that `scores` takes.
    """

    def __init__(self, model: Any, tokenizer: Any, *, device: str) -> None:
        self._model, self._tokenizer, self._device = model.to(device), tokenizer, device
        self.preprocess: Preprocess = from_open_clip(model.visual.preprocess_cfg)

    @torch.no_grad()
    def scores(self, images: Float[Tensor, "b 3 h w"], texts: Sequence[str]) -> Float[Tensor, "b t"]:
        """Cosine of each image with each text, times the model's temperature, plus its bias where it has one."""
        words = self._tokenizer(list(texts)).to(self._device)
        image = self._model.encode_image(images.to(self._device), normalize=True)
        text = self._model.encode_text(words, normalize=True)
        scores: Tensor = self._model.logit_scale.exp() * image @ text.T
        bias = getattr(self._model, "logit_bias", None)
        return scores if bias is None else scores + bias


def load_zero_shot(spec: EncoderSpec, *, device: str) -> ZeroShot:
    """Both towers of the model that an `open_clip:` spec names; of its options only `size` counts.

    Raises:
        EncoderError: as `load_open_clip`, or the spec is of another backend, or the tokenizer or the device cannot
            be had.
    """
    check_device(device)
    if spec.backend != "open_clip":
        raise EncoderError(f"encoder {spec} has no text tower here: zero-shot scores need open_clip:MODEL/PRETRAINED")
    model, source = create(spec)
    # open_clip hands the checkpoint's own arguments to transformers, among them whether its code may run.
    foreign = (_config(source.model).get("text_cfg") or {}).get("hf_tokenizer_name")
    arguments = {"trust_remote_code": False} if foreign else {}
    try:
        tokenizer = open_clip.get_tokenizer(source.model, **arguments)
    except (*FAILURES, ImportError) as error:
        raise EncoderError(f"open_clip has no tokenizer for encoder {spec}: {one_line(error)}") from error
    return ZeroShot(model, tokenizer, device=device)


def create(spec: EncoderSpec) -> tuple[Any, Source]:
    """The model with both towers, and where it came from.

    Raises:
        EncoderError: as `load_open_clip`.
    """
    try:
        source = _source(spec)
        model = open_clip.create_model(
            source.model,
            pretrained=source.pretrained,
            require_pretrained=True,
            weights_only=True,
            force_image_size=spec.settings().size,
            force_quick_gelu=bool(source.described.get("quick_gelu")),
            force_preprocess_cfg={key: value for key, value in source.described.items() if key != "size"},
        )
    except EncoderError:
        raise
    except FAILURES as error:
        raise EncoderError(f"open_clip cannot load encoder {spec}: {one_line(error)}") from error
    return model.eval().requires_grad_(False), source


def tower_forward(visual: Any) -> Forward:
    """An open_clip image tower's tokens with their layout."""
    if hasattr(visual, "trunk"):
        from encoders.timm_encoder import trunk_forward

        return trunk_forward(visual.trunk)

    def forward(images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
        taken = _intermediates(visual, images, [-1 if layer is None else layer for layer in layers])
        return [_final(visual, found) if layer is None else found for layer, found in zip(layers, taken, strict=True)]

    return forward


def _intermediates(visual: Any, images: Tensor, numbers: Sequence[int]) -> list[TokenGrid]:
    """Those blocks' outputs, from one pass, in the order asked; open_clip returns them in the model's."""
    if min(numbers) < 0 <= max(numbers):
        numbers = [number + _count(visual) if number < 0 else number for number in numbers]
    order = sorted(set(numbers))
    output = visual.forward_intermediates(
        images,
        indices=order,
        stop_early=True,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt="NCHW",
        output_extra_tokens=True,
    )
    maps = [from_map(features) for features in output["image_intermediates"]]
    prefixes = output.get("image_intermediates_prefix") or [found.prefix for found in maps]
    found = {
        number: TokenGrid(prefix, features.grid) for number, prefix, features in zip(order, prefixes, maps, strict=True)
    }
    return [found[number] for number in numbers]


def _count(visual: Any) -> int:
    """A ViT's blocks, or a ResNet's stem and stages."""
    return len(visual.transformer.resblocks) if hasattr(visual, "transformer") else len(RESNET)


def _final(visual: Any, last: TokenGrid) -> TokenGrid:
    """The last block's tokens, normalised where the tower does so before it pools them."""
    if not _normalises(visual):
        return last
    rows, columns = last.grid.shape[1:3]
    tokens = visual.ln_post(last.flat())
    return from_sequence(tokens, num_prefix=last.prefix.shape[1], rows=rows, columns=columns)


def _normalises(visual: Any) -> bool:
    after_pool = getattr(visual, "attn_pool", None) is not None or getattr(visual, "final_ln_after_pool", False)
    return hasattr(visual, "ln_post") and not after_pool


def _source(spec: EncoderSpec) -> Source:
    folder, revision = spec.local, spec.settings().revision
    if folder is not None:
        no_revision(spec)
    elif spec.name.startswith(HUB):
        if revision is None:
            return Source(spec.name)
        folder = _fetched(spec.name.removeprefix(HUB), revision)
    if folder is not None:
        local_files(spec, folder, config=CONFIG, weights=WEIGHTS, needs=("model_cfg",))
        return Source(f"local-dir:{folder}")
    model, _, tag = spec.name.partition("/")
    models = open_clip.list_models()
    if model not in models:
        raise EncoderError(f"unknown open_clip model {model!r} in encoder {spec}: {nearest(model, models)}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise EncoderError(f"unknown pretrained tag {tag!r} in encoder {spec}: {nearest(tag, tags)}")
    described = open_clip.get_pretrained_cfg(model, tag)
    if revision is None:
        return Source(model, tag, described)
    repository, file = os.path.split(described.get("hf_hub") or "")
    if not repository:
        raise EncoderError(
            f"revision={revision} in encoder {spec}: open_clip has {tag!r} from no hub repository, and only those "
            "have revisions: leave it away"
        )
    weights = open_clip.pretrained.download_pretrained_from_hf(repository, filename=file or None, revision=revision)
    return Source(model, weights, described)


def _fetched(repository: str, revision: str) -> Path:
    """The folder of a hub repository's files at a revision; open_clip itself knows of none."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS, *TOKENIZERS]))


def _config(model_name: str) -> dict[str, Any]:
    """What open_clip, or the checkpoint, says of both towers."""
    config: dict[str, Any] = open_clip.get_model_config(model_name) or {}
    own: dict[str, Any] = config.get("model_cfg", config)
    return own


def _architecture(spec: EncoderSpec, visual: Any, source: Source) -> dict[str, Any]:
    """What open_clip builds the tower from, beside its weights; of timm's towers what timm built."""
    config = _config(source.model)
    quick_gelu = bool(config.get("quick_gelu") or source.described.get("quick_gelu"))
    tag = spec.name.partition("/")[2] if spec.local is None else ""
    described = {"vision": config.get("vision_cfg"), "quick_gelu": quick_gelu, "tag": tag}
    if getattr(visual, "final_ln_after_pool", False):
        described["final"] = "not normalised"
    if hasattr(visual, "trunk"):
        from encoders.timm_encoder import built

        described["trunk"] = built(visual.trunk)
    size = spec.settings().size
    return described if size is None else {**described, "size": list(size)}
