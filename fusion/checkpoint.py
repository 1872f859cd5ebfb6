"""A fusion model on disk: model.safetensors, fusion.json (settings, widths, shape) and tokenizer/.

Handed a model and a folder, writes; handed a folder, hands back the same model, without need of the text
checkpoint that it once started from. Each file is replaced in one step and fusion.json comes last, so a
folder with one is complete.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.text import TextTokenizer
from fusion.transformer import TrunkShape
from fusion.trunk import TextTrunk

FORMAT = 1


def save_model(model: FusionModel, folder: Path) -> None:
    """Writes the model to a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save(folder / "tokenizer")
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors.part").write_bytes(save(state))  # `save_file` makes a file that others cannot read
    os.replace(folder / "model.safetensors.part", folder / "model.safetensors")
    described = {
        "format": FORMAT,
        "config": model.config.to_dict(),
        "operator": {"name": model.config.operator, **model.operator.describe()},
        "widths": model.widths,
        "shape": asdict(model.shape),
    }
    (folder / "fusion.json.part").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    os.replace(folder / "fusion.json.part", folder / "fusion.json")


def load_model(folder: Path, *, device: torch.device | str = "cpu") -> FusionModel:
    """Returns the model saved in a folder, in evaluation mode.

    Raises:
        FusionError: a file is missing, torn or of another model.
    """
    path = folder / "fusion.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise FusionError(f"{path} has format {described['format']!r}; valid: {FORMAT}")
        config = FusionConfig.from_dict(described["config"])
        shape = TrunkShape.from_dict(described["shape"])
        widths = {str(alias): int(width) for alias, width in described["widths"].items()}
    except FileNotFoundError as error:
        raise FusionError(f"no fusion model: {path} does not exist") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise FusionError(f"{path} does not describe a fusion model: {error!r}") from error
    model = FusionModel(config, widths, TextTrunk(shape, TextTokenizer.load(folder / "tokenizer")))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        raise FusionError(
            f"cannot read {folder / 'model.safetensors'}: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device).eval()
