"""Encoders by transformers: a vision model through its Auto classes, from a hub repository or from a local
folder with `config.json`, `model.safetensors` and `preprocessor_config.json`.

Tokens are `last_hidden_state`, or with `layer` those blocks' hidden states. Of two-tower models (CLIP, SigLIP)
the vision tower is taken, and a masked autoencoder sees the whole image. Preprocessing is the checkpoint's, by
the rules of transformers' PIL image processors, which are those that the checkpoints were trained with; its
torchvision processors give slightly different pixels (DINOv3 alone has no other). Code in a
repository is never run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from encoders import torchvision_compat  # noqa: F401  # isort: skip
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import logging as transformers_logging

from encoders.base import Encoder, one_line
from encoders.checkpoint import local_files, no_revision, read_json, whole_patches
from encoders.described import from_hf
from encoders.errors import EncoderError
from encoders.module import Forward, ModuleEncoder
from encoders.options import Layer
from encoders.pooling import TokenGrid, from_map, from_sequence, grid_shape
from encoders.preprocess import Preprocess
from encoders.spec import EncoderSpec

FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError)
COVERED = ("ConvNext", "Beit", "Levit", "DINOv3ViT")
"""Image processors with steps of their own that `encoders.described.from_hf` follows."""


def load_hf(spec: EncoderSpec, *, device: str) -> Encoder:
    """The vision model that the spec names.

    Raises:
        EncoderError: there is no such repository, folder or layer, or it is not a vision model with plain
            images.
    """
    folder = spec.local
    settings = spec.settings()
    if folder is not None:
        no_revision(spec)
        local_files(spec, folder, config="config.json", weights="model.safetensors", needs=("model_type",))
        if not (folder / "preprocessor_config.json").is_file():
            raise EncoderError(f"encoder {spec}: {folder} has no preprocessor_config.json")
        read_json(spec, folder / "preprocessor_config.json")
    source = spec.name if folder is None else str(folder)
    local_only = folder is not None
    more: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_only}
    if settings.revision:
        more["revision"] = settings.revision
    try:
        with _quiet(local_only):
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype="float32", **more)
        processors: Any = AutoImageProcessor
        processor = processors.from_pretrained(source, backend="pil", **more)
    except FAILURES as error:
        raise EncoderError(f"transformers cannot load encoder {spec}: {one_line(error)}") from error
    tower: Any = getattr(model, "vision_model", model)
    if "pixel_values" not in inspect.signature(tower.forward).parameters:
        raise EncoderError(f"encoder {spec} is a {type(model).__name__}, which takes no images")
    whole_patches(spec, getattr(tower.config, "patch_size", None))
    size = {"size": list(settings.size)} if settings.size else {}
    return ModuleEncoder(
        spec,
        module=tower,
        forward=vision_forward(tower, interpolate=settings.size is not None),
        preprocess=_preprocess(spec, processor),
        architecture={"library": "transformers", "config": _architecture(tower), **size},
        device=device,
    )


def vision_forward(tower: nn.Module, *, interpolate: bool = False) -> Forward:
    """A transformers vision model's tokens with their layout.

    Args:
        interpolate: ask the model to fit its position embeddings to the image, where it only does so when asked.
    """
    config: Any = tower.config
    asks = interpolate and "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    more: dict[str, Any] = {"interpolate_pos_encoding": True} if asks else {}
    patch_size: Any = getattr(config, "patch_size", None)
    autoencoder = config.model_type == "vit_mae"
    if autoencoder:
        config.mask_ratio = 0.0

    def forward(images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
        numbers = [layer for layer in layers if layer is not None]
        order = _in_order(images, patch_size) if autoencoder else {}
        output = tower(pixel_values=images, output_hidden_states=bool(numbers), **more, **order)
        states = [_state(output, layer) for layer in layers]
        return [_with_layout(state, images, patch_size) for state in states]

    return forward


def _in_order(images: Tensor, patch_size: int) -> dict[str, Tensor]:
    """What a ViTMAE sorts its patches by, which are otherwise shuffled even where none is masked."""
    patches = (images.shape[2] // patch_size) * (images.shape[3] // patch_size)
    return {"noise": torch.arange(patches, device=images.device).expand(len(images), -1)}


def _state(output: Any, layer: Layer) -> Tensor:
    if layer is None:
        final: Tensor = output.last_hidden_state
        return final
    # Entry 0 of the hidden states is the embedding, before any block.
    hidden = output.hidden_states
    if not -len(hidden) < layer < len(hidden) - 1:
        raise ValueError(f"layer={layer} is outside its {len(hidden) - 1} layers")
    state: Tensor = hidden[layer + 1 if layer >= 0 else layer]
    return state


def _with_layout(states: Tensor, images: Tensor, patch_size: Any) -> TokenGrid:
    if states.ndim == 4:
        return from_map(states)
    if isinstance(patch_size, int):
        patch_size = (patch_size, patch_size)
    length, height, width = states.shape[1], int(images.shape[2]), int(images.shape[3])
    if patch_size is not None:
        rows, columns = height // int(patch_size[0]), width // int(patch_size[1])
        if rows * columns <= length:
            return from_sequence(states, num_prefix=length - rows * columns, rows=rows, columns=columns)
    # Fewer tokens than patches: a pyramid, without a prefix (Swin) or after its pooled token (DINOv3's ConvNeXt).
    for num_prefix in (0, 1):
        shape = grid_shape(length - num_prefix, height=height, width=width)
        if shape is not None:
            return from_sequence(states, num_prefix=num_prefix, rows=shape[0], columns=shape[1])
    raise ValueError(f"{length} tokens of width {states.shape[2]} are no grid of a {height}x{width} image")


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """No bar for a folder, which loads at once; downloads keep theirs, and the setting is put back."""
    progress: Any = transformers_logging
    if not (local and progress.is_progress_bar_enabled()):
        yield
        return
    progress.disable_progress_bar()
    try:
        yield
    finally:
        progress.enable_progress_bar()


def _preprocess(spec: EncoderSpec, processor: Any) -> Preprocess:
    """The processor's description, where it follows the rules that `described.from_hf` covers."""
    from transformers.image_processing_backends import PilBackend

    kind = type(processor)
    name = str(kind.__name__).removesuffix("Pil")
    if not name.startswith(COVERED):
        own = [step for step in ("resize", "center_crop", "_preprocess") if _overrides(kind, PilBackend, step)]
        if own or not issubclass(kind, PilBackend):
            raise EncoderError(
                f"encoder {spec}: {name} has its own {', '.join(own) or 'backend'}, which is not described as data "
                f"here; plain resize, crop, rescale and normalise work (ViT, BiT, CLIP, SigLIP, {', '.join(COVERED)})"
            )
    return from_hf({**processor.to_dict(), "image_processor_type": name}, size=spec.settings().size)


def _overrides(kind: type, base: type, step: str) -> bool:
    return getattr(kind, step, None) is not getattr(base, step)


def _architecture(tower: Any) -> dict[str, Any]:
    """What transformers builds the model from, beside its weights, without versions and origin."""
    settings: dict[str, Any] = tower.config.to_diff_dict()
    dropped = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}
    return {key: value for key, value in settings.items() if key not in dropped}
