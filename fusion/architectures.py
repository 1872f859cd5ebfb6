"""Which checkpoints a trunk can start from, as data: how each architecture names its settings and its weights.

Handed the values of a config.json and the tensors of a checkpoint, hands on a `TrunkShape`'s arguments and the
same tensors by BERT's bare names, whose LayerNorms are those at the same place of a block. Two tables: text
encoders and vision transformers. What a block cannot compute exactly is refused here, by its setting.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fusion.errors import FusionError, choices
from fusion.transformer import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
}
Values = Mapping[str, Any]
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model_type of transformers, or timm's vision transformers.

    Attributes:
        prefix: of the weights where a head was saved with them.
        keys: of config.json by our names.
        renames: pattern and replacement, from its weights' names to BERT's; the first that matches is used.
        requires: settings, and the only value that the blocks can honour.
        extra: further arguments of `TrunkShape`, from config.json.
        convert: what names alone do not do; applied after renaming.
        biases: whether missing biases are zeros; otherwise they are an error.
    """

    prefix: str
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    renames: tuple[tuple[str, str], ...] = ()
    requires: Mapping[str, Any] = field(default_factory=dict)
    extra: Callable[[Values], dict[str, Any]] = lambda values: {"norm": "post"}
    convert: Callable[[Weights, Values], Weights] = lambda weights, values: weights
    biases: bool = True

    def shape(self, values: Values, *, path: str) -> dict[str, Any]:
        """Returns arguments of `TrunkShape`, all but those that the settings choose.

        Raises:
            FusionError: a setting that the blocks cannot honour.
        """
        for key, only in self.requires.items():
            if values.get(key, only) != only:
                raise FusionError(f"{path}: {key} {values[key]!r} is not supported; valid: {only!r}")
        found = {name: values[key] for name, key in self.keys.items()}
        if found["activation"] not in ACTIVATIONS:
            raise FusionError(
                f"{path}: {self.keys['activation']} {found['activation']!r}; "
                f"{choices(str(found['activation']), ACTIVATIONS)}"
            )
        found["activation"] = ACTIVATIONS[found["activation"]]
        return {**found, **self.extra(values)}

    def weights(self, loaded: Mapping[str, Tensor], values: Values) -> Weights:
        """Returns a checkpoint's tensors by BERT's bare names; heads keep their own and are never asked for."""
        renamed: Weights = {}
        for name, tensor in loaded.items():
            bare = name.removeprefix(self.prefix).replace(".gamma", ".weight").replace(".beta", ".bias")
            for pattern, replacement in self.renames:
                bare, changed = re.subn(pattern, replacement, bare)
                if changed:
                    break
            renamed[bare] = tensor
        converted = self.convert(renamed, values)
        if not self.biases:
            for name in [name for name in converted if name.endswith(".weight")]:
                if converted[name].ndim <= 2:
                    converted.setdefault(
                        f"{name.removesuffix('weight')}bias", converted[name].new_zeros(len(converted[name]))
                    )
        return converted


def _roberta(weights: Weights, values: Values) -> Weights:
    """RoBERTa counts positions from behind its padding's."""
    name = "embeddings.position_embeddings.weight"
    return {**weights, name: weights[name][values["pad_token_id"] + 1 :]} if name in weights else weights


def _roberta_extra(values: Values) -> dict[str, Any]:
    return {"norm": "post", "max_positions": values["max_position_embeddings"] - values["pad_token_id"] - 1}


def _without_types(weights: Weights, values: Values) -> Weights:
    """Text has no type of its own where an architecture has none; the visual one starts at random."""
    width = values["dim"] if "dim" in values else values["hidden_size"]
    return {**weights, "embeddings.token_type_embeddings.weight": torch.zeros(1, width)}


def _modernbert(weights: Weights, values: Values) -> Weights:
    return _without_types(_apart(weights), values)


def _modernbert_extra(values: Values) -> dict[str, Any]:
    ropes = {kind: values["rope_parameters"][kind] for kind in ("full_attention", "sliding_attention")}
    for kind, rope in ropes.items():
        if rope["rope_type"] != "default":
            raise FusionError(f"rope_type {rope['rope_type']!r} of {kind} is not supported; valid: 'default'")
    local = [layer for layer, kind in enumerate(values["layer_types"]) if kind == "sliding_attention"]
    return {
        "norm": "pre",
        "positions": "rotary",
        "gated_mlp": True,
        "first_norm": False,
        "local_layers": tuple(local),
        "local_reach": values["local_attention"] // 2,
        "thetas": tuple(float(rope["rope_theta"]) for rope in ropes.values()),
    }


def _apart(weights: Weights) -> Weights:
    """Splits joined query, key and value projections."""
    found: Weights = {}
    for name, tensor in weights.items():
        if ".attention.self.qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[name.replace("qkv", part)] = piece
        else:
            found[name] = tensor
    return found


def _scaled(weights: Weights, values: Values) -> Weights:
    """Folds layer scale into the projection before it: s (W x + b) = (s W) x + s b."""
    found = {name: tensor for name, tensor in weights.items() if not name.endswith(".scale")}
    for name, scale in weights.items():
        if name.endswith(".scale"):
            for part in ("weight", "bias"):
                key = f"{name.removesuffix('scale')}dense.{part}"
                found[key] = found[key] * (scale[:, None] if part == "weight" else scale)
    return found


def timm_values(values: Values) -> dict[str, Any]:
    """Returns what a timm folder's config.json says of its blocks; heads have 64 channels where it is silent."""
    name = str(values.get("architecture"))
    if not re.match(r"(vit|deit3?)_", name) or "reg" in name or "swiglu" in name or "clip" in name:
        raise FusionError(f"timm architecture {name!r} is not supported; valid: plain vit_ and deit_ models")
    given = values.get("model_args", {})
    width = given.get("embed_dim", values.get("num_features"))
    sizes = {"embed_dim": width, "num_heads": given.get("num_heads", width // 64), "activation": "gelu"}
    return {**values, **sizes, "depth": given.get("depth", 12)}


BLOCK = r"^(?:encoder\.layer|transformer\.layer|layers|blocks)\.(\d+)\."
PRE = {"norm": "pre"}
_BERT = {"position_embedding_type": "absolute"}

TEXT_MODELS: dict[str, Architecture] = {
    "bert": Architecture("bert.", requires=_BERT),
    "electra": Architecture("electra.", requires=_BERT),
    "roberta": Architecture("roberta.", requires=_BERT, extra=_roberta_extra, convert=_roberta),
    "xlm-roberta": Architecture("roberta.", requires=_BERT, extra=_roberta_extra, convert=_roberta),
    "camembert": Architecture("roberta.", requires=_BERT, extra=_roberta_extra, convert=_roberta),
    "distilbert": Architecture(
        "distilbert.",
        keys={
            **{name: key for name, key in KEYS.items() if name != "eps"},
            "width": "dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "mlp_width": "hidden_dim",
            "activation": "activation",
        },
        renames=(
            (BLOCK + r"attention\.q_lin", r"encoder.layer.\1.attention.self.query"),
            (BLOCK + r"attention\.k_lin", r"encoder.layer.\1.attention.self.key"),
            (BLOCK + r"attention\.v_lin", r"encoder.layer.\1.attention.self.value"),
            (BLOCK + r"attention\.out_lin", r"encoder.layer.\1.attention.output.dense"),
            (BLOCK + r"sa_layer_norm", r"encoder.layer.\1.attention.output.LayerNorm"),
            (BLOCK + r"ffn\.lin1", r"encoder.layer.\1.intermediate.dense"),
            (BLOCK + r"ffn\.lin2", r"encoder.layer.\1.output.dense"),
            (BLOCK + r"output_layer_norm", r"encoder.layer.\1.output.LayerNorm"),
        ),
        extra=lambda values: {"norm": "post", "eps": 1e-12},
        convert=_without_types,
    ),
    "modernbert": Architecture(
        "model.",
        keys={**KEYS, "activation": "hidden_activation", "eps": "norm_eps"},
        renames=(
            (r"^embeddings\.tok_embeddings", "embeddings.word_embeddings"),
            (r"^embeddings\.norm", "embeddings.LayerNorm"),
            (BLOCK + r"attn\.Wqkv", r"encoder.layer.\1.attention.self.qkv"),
            (BLOCK + r"attn\.Wo", r"encoder.layer.\1.attention.output.dense"),
            (BLOCK + r"attn_norm", r"encoder.layer.\1.attention.output.LayerNorm"),
            (BLOCK + r"mlp\.Wi", r"encoder.layer.\1.intermediate.dense"),
            (BLOCK + r"mlp\.Wo", r"encoder.layer.\1.output.dense"),
            (BLOCK + r"mlp_norm", r"encoder.layer.\1.output.LayerNorm"),
        ),
        extra=_modernbert_extra,
        convert=_modernbert,
        biases=False,
    ),
}
"""Text encoders by transformers' model_type."""

_VIT_KEYS = {name: key for name, key in KEYS.items() if name not in ("vocab_size", "max_positions")}
_VIT_RENAMES = (
    (r"^layernorm\.", "final_norm."),
    (BLOCK + r"attention\.attention\.", r"encoder.layer.\1.attention.self."),
    (BLOCK + r"(?:layernorm_before|norm1)\.", r"encoder.layer.\1.attention.output.LayerNorm."),
    (BLOCK + r"(?:layernorm_after|norm2)\.", r"encoder.layer.\1.output.LayerNorm."),
    (BLOCK + r"mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (BLOCK + r"mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (BLOCK + r"layer_scale1\.lambda1", r"encoder.layer.\1.attention.output.scale"),
    (BLOCK + r"layer_scale2\.lambda1", r"encoder.layer.\1.output.scale"),
)

VISION_MODELS: dict[str, Architecture] = {
    "vit": Architecture("vit.", _VIT_KEYS, _VIT_RENAMES, extra=lambda values: PRE, biases=False),
    "deit": Architecture("deit.", _VIT_KEYS, _VIT_RENAMES, extra=lambda values: PRE, biases=False),
    "dinov2": Architecture(
        "dinov2.",
        {name: key for name, key in _VIT_KEYS.items() if name != "mlp_width"},
        _VIT_RENAMES,
        requires={"use_swiglu_ffn": False},
        extra=lambda values: {"norm": "pre", "mlp_width": int(values["hidden_size"] * values["mlp_ratio"])},
        convert=_scaled,
        biases=False,
    ),
    "timm": Architecture(
        "",
        {"width": "embed_dim", "layers": "depth", "heads": "num_heads", "activation": "activation"},
        (
            (r"^norm\.", "final_norm."),
            (BLOCK + r"attn\.qkv\.", r"encoder.layer.\1.attention.self.qkv."),
            (BLOCK + r"attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
            (BLOCK + r"ls1\.(?:gamma|weight)$", r"encoder.layer.\1.attention.output.scale"),
            (BLOCK + r"ls2\.(?:gamma|weight)$", r"encoder.layer.\1.output.scale"),
            *_VIT_RENAMES[2:6],
        ),
        extra=lambda values: {"norm": "pre", "eps": 1e-6, "mlp_width": values["mlp_width"]},
        convert=lambda weights, values: _scaled(_apart(weights), values),
        biases=False,
    ),
}
"""Vision transformers by transformers' model_type, and timm's."""
