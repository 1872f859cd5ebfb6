"""`python -m experiments.train_demo_encoders`: the recipe that made the encoders and the text trunk that ship here.

Renders scenes that no task uses, trains the ViT, the ConvNeXt, the CLIP and the DINO on them, and writes each as a
folder that the `timm:`, `open_clip:` and `hf:` specs load: configuration, safetensors, model card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from experiments.demo_recipes.scene_bank import SceneBank

MODELS = ("vit", "convnext", "clip", "dino", "text")
STEPS = {"vit": 1500, "convnext": 2000, "clip": 1200, "dino": 1600, "text": 3000}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.train_demo_encoders", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("encoders/demo"), help="folder that gets one folder per encoder"
    )
    parser.add_argument("--text-out", type=Path, default=Path("fusion/demo_text"), help="folder of the text trunk")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--scenes", type=int, default=20_000, help="scenes to render")
    parser.add_argument("--steps", type=int, help="steps, in place of the recipe's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the bytes of the weights depend on it")
    args = parser.parse_args(argv)
    import torch

    import encoders.torchvision_compat  # noqa: F401  (timm and open_clip import torchvision)
    from experiments.demo_recipes.scene_bank import make_scene_bank

    torch.set_num_threads(args.threads)
    print(f"rendering {args.scenes} scenes …", flush=True)
    bank = make_scene_bank(args.scenes, seed=args.seed, paint=args.only != ["text"])
    for name in args.only:
        started = time.perf_counter()
        steps = args.steps or STEPS[name]
        folder = args.text_out if name == "text" else args.out / name
        TRAINERS[name](bank, folder, steps, args.seed)
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes, written to {folder}", flush=True)
    return 0


def _train_timm(name: str, bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    from experiments.demo_recipes import convnext, vit
    from experiments.demo_recipes.scene_bank import INPUT, MEAN, STD

    model: nn.Module
    if name == "vit":
        recipe: Any = vit
        model, loss = vit.train_vit(bank, steps=steps, seed=seed)
    else:
        recipe = convnext
        model, loss = convnext.train_convnext(bank, steps=steps, seed=seed)
    pretrained = {
        "input_size": [3, INPUT, INPUT],
        "fixed_input_size": name == "vit",
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "num_classes": 0,
        "license": "apache-2.0",
    }
    config = {
        "architecture": recipe.ARCHITECTURE,
        "num_classes": 0,
        "num_features": 128,
        "pretrained_cfg": pretrained,
        "model_args": recipe.MODEL_ARGS,
    }
    _write(folder, model, {"config.json": config}, backend="timm", pool="4x4")
    _card(folder, name, recipe.OBJECTIVE, steps=steps, seed=seed, loss=loss, scenes=len(bank.scenes))


def _train_vit(bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    _train_timm("vit", bank, folder, steps, seed)


def _train_convnext(bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    _train_timm("convnext", bank, folder, steps, seed)


def _train_clip(bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    from experiments.demo_recipes import clip
    from experiments.demo_recipes.tokenizer import closed_tokenizer

    tokenizer = closed_tokenizer(text for texts in bank.captions for text in texts)
    model, loss = clip.train_clip(bank, tokenizer, steps=steps, seed=seed)
    config = clip.model_config(len(tokenizer))
    _write(
        folder,
        model,
        {"open_clip_config.json": config},
        backend="open_clip",
        pool="4x4",
        weights="open_clip_model",
    )
    tokenizer.save_pretrained(folder)
    _card(folder, "clip", clip.OBJECTIVE, steps=steps, seed=seed, loss=loss, scenes=len(bank.scenes))


def _train_dino(bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    from experiments.demo_recipes import dino
    from experiments.demo_recipes.scene_bank import INPUT, MEAN, STD

    model, loss = dino.train_dino(bank, steps=steps, seed=seed)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": INPUT, "width": INPUT},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    config = {**model.config.to_dict(), "architectures": ["Dinov2Model"]}  # type: ignore[operator,union-attr]
    files = {"config.json": config, "preprocessor_config.json": processor}
    _write(folder, model, files, backend="hf", pool="4x4")
    _card(folder, "dino", dino.OBJECTIVE, steps=steps, seed=seed, loss=loss, scenes=len(bank.scenes))


def _train_text(bank: SceneBank, folder: Path, steps: int, seed: int) -> None:
    from experiments.demo_recipes import text

    loss = text.train_text(bank, folder, steps=steps, seed=seed)
    _card(folder, "text", text.OBJECTIVE, steps=steps, seed=seed, loss=loss, scenes=len(bank.scenes))


TRAINERS = {
    "vit": _train_vit,
    "convnext": _train_convnext,
    "clip": _train_clip,
    "dino": _train_dino,
    "text": _train_text,
}


def _write(
    folder: Path,
    model: nn.Module,
    files: dict[str, dict[str, Any]],
    *,
    backend: str,
    pool: str,
    weights: str = "model",
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, default=str) + "\n")
    (folder / "demo.json").write_text(json.dumps({"backend": backend, "pool": pool}) + "\n")
    state = {key: value.detach().contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, folder / f"{weights}.safetensors", metadata={"format": "pt"})


def _card(folder: Path, name: str, objective: str, *, steps: int, seed: int, loss: float, scenes: int) -> None:
    import torch

    kind = "text trunk and its tokenizer" if name == "text" else "vision encoder"
    lines = [
        f"# demo:{name}",
        "",
        f"A small {kind} for the embedded world of rendered scenes. Licence: Apache-2.0.",
        "",
        f"- objective: {objective}",
        f"- data: {scenes:,} rendered scenes (`experiments/demo_recipes/scene_bank.py`), disjoint from every task's",
        f"- steps: {steps:,}; seed: {seed}; final training loss: {loss:.4f}",
        f"- command: `python -m experiments.train_demo_encoders --only {name} --seed {seed} --scenes {scenes}"
        f" --steps {steps} --threads {torch.get_num_threads()}` (torch {torch.__version__})",
        *(
            f"- sha256 of `{weights.name}`: `{hashlib.sha256(weights.read_bytes()).hexdigest()}`"
            for weights in sorted(folder.glob("*.safetensors"))
        ),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(main())
