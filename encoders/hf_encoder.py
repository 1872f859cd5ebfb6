"""Encoders by transformers: a vision model through its Auto classes, from a hub repository or from a local
folder with `config.json`, `model.safetensors` and `preprocessor_config.json`.

Tokens are `last_hidden_state`, or with `layer` that block's hidden state. Of two-tower models (CLIP, SigLIP)
the vision tower is taken. Preprocessing is the checkpoint's, by the rules of transformers' PIL image
processors, which are those that the checkpoints were trained with; its torchvision processors give slightly
different pixels. Code in a repository is never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from encoders import torchvision_compat  # noqa: F401  # isort: skip
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import logging as transformers_logging

from encoders.base import Encoder, Forward, ModuleEncoder, one_line
from encoders.checkpoint import local_files, read_json
from encoders.errors import EncoderError
from encoders.pooling import TokenGrid, from_map, from_sequence
from encoders.preprocess import Preprocess, from_hf
from encoders.spec import EncoderSpec

FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError)


def load_hf(spec: EncoderSpec, *, device: str) -> Encoder:
    """The vision model that the spec names.

    Raises:
        EncoderError: there is no such repository, folder or layer, or it is not a vision model with plain
            images.
    """
    folder = spec.local
    if folder is not None:
        local_files(spec, folder, config="config.json", weights="model.safetensors", needs=("model_type",))
        if not (folder / "preprocessor_config.json").is_file():
            raise EncoderError(f"encoder {spec}: {folder} has no preprocessor_config.json")
        read_json(spec, folder / "preprocessor_config.json")
    source = spec.name if folder is None else str(folder)
    local_only = folder is not None
    try:
        with _quiet(local_only):
            model = AutoModel.from_pretrained(
                source,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=local_only,
                dtype="float32",
            )
        processors: Any = AutoImageProcessor
        processor = processors.from_pretrained(
            source, backend="pil", trust_remote_code=False, local_files_only=local_only
        )
    except FAILURES as error:
        raise EncoderError(f"transformers cannot load encoder {spec}: {one_line(error)}") from error
    tower: Any = getattr(model, "vision_model", model)
    return ModuleEncoder(
        spec,
        module=tower,
        forward=vision_forward(tower, layer=spec.settings().layer),
        preprocess=_preprocess(spec, processor),
        architecture={"library": "transformers", "config": _architecture(tower)},
        device=device,
    )


def vision_forward(tower: nn.Module, *, layer: int | None) -> Forward:
    """A transformers vision model's tokens with their layout."""
    config: Any = tower.config

    def forward(images: Tensor) -> TokenGrid:
        if layer is None:
            states = tower(pixel_values=images).last_hidden_state
        else:
            # Entry 0 of the hidden states is the embedding, before any block.
            hidden = tower(pixel_values=images, output_hidden_states=True).hidden_states
            if not -len(hidden) < layer < len(hidden) - 1:
                raise ValueError(f"layer={layer} is outside its {len(hidden) - 1} layers")
            states = hidden[layer + 1 if layer >= 0 else layer]
        return _with_layout(states, images, getattr(config, "patch_size", None))

    return forward


def _with_layout(states: Tensor, images: Tensor, patch_size: Any) -> TokenGrid:
    if states.ndim == 4:
        return from_map(states)
    if isinstance(patch_size, int):
        patch_size = (patch_size, patch_size)
    length = states.shape[1]
    if patch_size is not None:
        rows, columns = images.shape[2] // int(patch_size[0]), images.shape[3] // int(patch_size[1])
        if rows * columns <= length:
            return from_sequence(states, num_prefix=length - rows * columns, rows=rows, columns=columns)
    side = round(length**0.5)
    if side * side != length:
        raise ValueError(f"{length} tokens of width {states.shape[2]} are no grid")
    return from_sequence(states, num_prefix=0, rows=side, columns=side)


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
    """The processor's description, where it follows the rules that `preprocess.from_hf` covers."""
    from transformers.image_processing_backends import PilBackend

    kind = type(processor)
    name = str(kind.__name__).removesuffix("Pil")
    own = [step for step in ("resize", "center_crop", "_preprocess") if _overrides(kind, PilBackend, step)]
    if own and not name.startswith("ConvNext"):
        raise EncoderError(
            f"encoder {spec}: {name} has its own {', '.join(own)}, which is not described as data here; "
            "plain resize, crop, rescale and normalise work (ViT, BiT, CLIP, SigLIP, ConvNeXt)"
        )
    return from_hf({**processor.to_dict(), "image_processor_type": name})


def _overrides(kind: type, base: type, step: str) -> bool:
    return getattr(kind, step, None) is not getattr(base, step)


def _architecture(tower: Any) -> dict[str, Any]:
    """What transformers builds the model from, beside its weights, without versions and origin."""
    settings: dict[str, Any] = tower.config.to_diff_dict()
    dropped = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}
    return {key: value for key, value in settings.items() if key not in dropped}
