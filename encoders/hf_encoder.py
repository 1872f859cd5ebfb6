"""Encoders by transformers: a vision model through its Auto classes, from a hub repository or from a local
folder with `config.json`, `model.safetensors` and `preprocessor_config.json`.

Tokens are `last_hidden_state`, or with `layer` those blocks' or stages' hidden states. Of two-tower models (CLIP,
SigLIP) the vision tower is taken, and a masked autoencoder sees the whole image. Weights that the checkpoint lacks are
refused: transformers would draw them at random. Preprocessing is the checkpoint's, by the rules of transformers' PIL
image processors, which are those that the checkpoints were trained with; its torchvision processors give slightly
different pixels (DINOv3 alone has no other). Code in a repository is never run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
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
TOKENLESS = ("pooler", "mask_token")
"""Parts of a model on which no token of an image depends; a checkpoint may lack them."""
PYRAMIDS = {"dinov3_convnext": 1, "swin": 0, "swinv2": 0, "donut-swin": 0, "levit": 0, "focalnet": 0}
"""Kinds of model that give fewer tokens than patches -> how many prefix tokens those begin with."""
DROPPED = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}
"""Settings that say where a model comes from, and in what precision it lies on disk."""
IDLE = re.compile("id2label|label2id|num_labels|problem_type|initializer_(range|factor)|.*dropout.*|.*drop_.*rate")
"""Settings on which no token of a loaded, frozen model depends: the head's, training's and initialisation's."""
SHOWN = 4
"""Names of weights in a message, at most."""


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
            model, report = AutoModel.from_pretrained(
                source, use_safetensors=True, dtype="float32", output_loading_info=True, **more
            )
        processors: Any = AutoImageProcessor
        processor = processors.from_pretrained(source, backend="pil", **more)
    except FAILURES as error:
        raise EncoderError(f"transformers cannot load encoder {spec}: {one_line(error)}") from error
    tower: Any = getattr(model, "vision_model", model)
    if "pixel_values" not in inspect.signature(tower.forward).parameters:
        raise EncoderError(f"encoder {spec} is a {type(model).__name__}, which takes no images")
    _leave_out_or_refuse(spec, model, tower, report)
    whole_patches(spec, _patch_stride(tower.config))
    size = {"size": list(settings.size)} if settings.size else {}
    return ModuleEncoder(
        spec,
        module=tower,
        forward=vision_forward(tower, interpolate=settings.size is not None),
        preprocess=_preprocess(spec, processor),
        architecture={"library": "transformers", "config": _architecture(tower), **size},
        device=device,
    )


def _leave_out_or_refuse(spec: EncoderSpec, model: nn.Module, tower: nn.Module, report: Mapping[str, Any]) -> None:
    """Leaves out what the checkpoint lacks, where no token depends on it.

    Args:
        report: transformers' own, of loading the model.

    Raises:
        EncoderError: the tower has other weights that are not the checkpoint's.
    """
    place = next(name for name, module in model.named_modules() if module is tower)
    absent = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    drawn = []
    for key in sorted(absent):
        if place and not key.startswith(f"{place}."):
            continue  # of the text tower, or of a projection behind the tokens
        parts = key.split(".")
        end = next((end for end, part in enumerate(parts) if part in TOKENLESS), None)
        if end is None:
            drawn.append(key)
        else:
            setattr(model.get_submodule(".".join(parts[:end])), parts[end], None)
    if drawn:
        more = f" and {len(drawn) - SHOWN} more" if len(drawn) > SHOWN else ""
        raise EncoderError(
            f"encoder {spec}: the checkpoint lacks weights of its {type(model).__name__}, or has them in another "
            f"shape: {', '.join(drawn[:SHOWN])}{more}"
        )


def vision_forward(tower: nn.Module, *, interpolate: bool = False) -> Forward:
    """A transformers vision model's tokens with their layout.

    Args:
        interpolate: ask the model to fit its position embeddings to the image, where it only does so when asked.
    """
    config: Any = tower.config
    asks = interpolate and "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    more: dict[str, Any] = {"interpolate_pos_encoding": True} if asks else {}
    autoencoder = config.model_type == "vit_mae"
    if autoencoder:
        config.mask_ratio = 0.0

    def forward(images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
        numbers = [layer for layer in layers if layer is not None]
        order = _in_order(images, config.patch_size) if autoencoder else {}
        output = tower(pixel_values=images, output_hidden_states=bool(numbers), **more, **order)
        states = _states(output, numbers, images, config) if numbers else {}
        chosen = [output.last_hidden_state if layer is None else states[layer] for layer in layers]
        return [_with_layout(state, images, config) for state in chosen]

    return forward


def _in_order(images: Tensor, patch_size: int) -> dict[str, Tensor]:
    """What a ViTMAE sorts its patches by, which are otherwise shuffled even where none is masked."""
    patches = (images.shape[2] // patch_size) * (images.shape[3] // patch_size)
    return {"noise": torch.arange(patches, device=images.device).expand(len(images), -1)}


def _states(output: Any, numbers: Sequence[int], images: Tensor, config: Any) -> dict[int, Tensor]:
    """The outputs of those blocks or stages, as maps where the library gives maps."""
    maps = getattr(output, "reshaped_hidden_states", None)
    states = _rerolled(maps, images) if maps and config.model_type == "hiera" else maps or output.hidden_states
    layers = states[_embeddings(states, config) :]
    for number in numbers:
        if not -len(layers) <= number < len(layers):
            raise ValueError(f"layer={number} is outside its {len(layers)} layers")
    return {number: layers[number] for number in numbers}


def _embeddings(states: Sequence[Tensor], config: Any) -> int:
    """How many of a model's hidden states come before its first block or stage: 1 of most models', none of PVTv2's."""
    depths = getattr(config, "depths", None) or getattr(config, "depth", None)
    count = len(depths) if isinstance(depths, (list, tuple)) else getattr(config, "num_hidden_layers", None)
    if count is None or len(states) - count not in (0, 1):
        raise ValueError(
            f"transformers gives {len(states)} hidden states of a {config.model_type} with "
            f"{'an unknown number of' if count is None else count} layers, so it is unknown which is whose; "
            "leave layer away"
        )
    return len(states) - int(count)


def _rerolled(maps: Sequence[Tensor], images: Tensor) -> list[Tensor]:
    """Hiera's hidden states row by row: transformers reorders them as for the size in its config, channels last."""
    height, width = images.shape[2:]
    if any(each.shape[1] * width != each.shape[2] * height for each in maps):
        raise ValueError("transformers orders hidden states for the checkpoint's size alone; leave layer or size away")
    return [rearrange(each, "b h w c -> b c h w") for each in maps]


def _with_layout(states: Tensor, images: Tensor, config: Any) -> TokenGrid:
    if states.ndim == 4:
        return from_map(states)
    queries = getattr(config, "num_queries", None)
    if queries == states.shape[1]:  # of a decoder, as DETR's
        raise ValueError(f"the {queries} states of a {config.model_type} are of object queries, no tokens of the image")
    stride = _patch_stride(config)
    length, height, width = states.shape[1], int(images.shape[2]), int(images.shape[3])
    if stride is not None:
        rows, columns = height // stride[0], width // stride[1]
        num_prefix = length - rows * columns
        if 0 <= num_prefix <= _most_prefix_tokens(config):
            return from_sequence(states, num_prefix=num_prefix, rows=rows, columns=columns)
        if num_prefix > 0:
            raise ValueError(f"{length} tokens are more than {rows}x{columns} patches with class and register tokens")
    # Fewer tokens than patches: a pyramid, without a prefix (Swin) or after its pooled token (DINOv3's ConvNeXt).
    known = PYRAMIDS.get(config.model_type)
    shapes = {
        num_prefix: shape
        for num_prefix in ((0, 1) if known is None else (known,))
        if (shape := grid_shape(length - num_prefix, height=height, width=width)) is not None
    }
    if len(shapes) > 1:
        readings = " and ".join(f"{rows}x{columns} after {prefix}" for prefix, (rows, columns) in shapes.items())
        raise ValueError(
            f"{length} tokens of a {config.model_type} may be {readings} prefix tokens; a larger size tells them apart"
        )
    for num_prefix, (rows, columns) in shapes.items():
        return from_sequence(states, num_prefix=num_prefix, rows=rows, columns=columns)
    raise ValueError(f"{length} tokens of width {states.shape[2]} are no grid of a {height}x{width} image")


def _patch_stride(config: Any) -> tuple[int, int] | None:
    """From one patch to the next, down and across: a patch, but for overlapping ones (Hiera)."""
    patch = getattr(config, "patch_size", None)
    stride = patch if patch is None else getattr(config, "patch_stride", patch)
    if stride is None:
        return None
    return (stride, stride) if isinstance(stride, int) else (int(stride[0]), int(stride[1]))


def _most_prefix_tokens(config: Any) -> int:
    """A class token and one of distillation, or as many as the config says, and registers."""
    return max(2, getattr(config, "n_cls_tokens", 0)) + int(getattr(config, "num_register_tokens", 0))


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
    try:
        return from_hf({**processor.to_dict(), "image_processor_type": name}, size=spec.settings().size)
    except EncoderError as error:
        raise EncoderError(f"encoder {spec}: {error}") from error


def _overrides(kind: type, base: type, step: str) -> bool:
    return getattr(kind, step, None) is not getattr(base, step)


def _architecture(tower: Any) -> dict[str, Any]:
    """What transformers builds the model from, beside its weights, without versions, origin, labels and dropout."""
    settings: dict[str, Any] = tower.config.to_diff_dict()
    return {key: value for key, value in settings.items() if key not in DROPPED and not IDLE.fullmatch(key)}
