"""`bench extract`: JPEG files to stored features, against the model alone plus decoding and writing, and a plain loop.

Textured JPEGs of 500 x 375, and ViT-S/16 with random weights from a local checkpoint where no encoders are named. On a
CPU model and decoding share the cores, so the bound is their sum; on a GPU it is the longer of the two.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from encoders import load_encoder
from encoders.base import Encoder
from encoders.errors import EncoderError
from encoders.extract import extract
from encoders.memory import peak_memory
from encoders.processors import decoding_pool, decoding_threads
from encoders.spec import parse_specs
from experiments.bench import Figure
from experiments.precision import fast_precision

BATCH = 32


class Took(NamedTuple):
    """Seconds that a call took, on the clock and on the processors."""

    wall: float
    processor: float


def run(folder: Path, *, images: int | None, rounds: int, encoders: Sequence[str] = ()) -> list[Figure]:
    """The figures of the encoders named, or else of ViT-S/16 in every precision that the device multiplies.

    Raises:
        EncoderError: an encoder's spec is malformed, or names what does not exist.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    named = [load_encoder(spec, device=device) for spec in parse_specs(encoders)]
    for encoder in named:
        if encoder.reads == "files" or encoder.views > 1:
            raise EncoderError(f"bench extract measures one view of the pixels; that is not what {encoder.alias} takes")
    paths = textured(folder / "images", images or 128)
    if named:
        return [figure for encoder in named for figure in extract_figures(folder, encoder, paths, rounds=rounds)]
    checkpoint(folder / "vit")
    figures = []
    # Where bfloat16 is not multiplied a pass takes seven times as long.
    precisions = ("fp32", "bf16") if fast_precision(device) == "bf16" else ("fp32",)
    for dtype in precisions:
        encoder = load_encoder(f"{dtype}=timm:{folder}/vit?dtype={dtype}", device=device)
        figures += extract_figures(folder, encoder, paths, rounds=rounds)
    error = error_of_bf16(folder, paths)
    figures.append(compiled_figure(folder, paths, dtype=precisions[-1], device=device, rounds=rounds))
    figures.append(Figure("bf16: relative L2 error of the stored tokens against fp32", 1000 * error, "e-3"))
    return figures


def extract_figures(folder: Path, encoder: Encoder, paths: Sequence[Path], *, rounds: int) -> list[Figure]:
    """Of one encoder: extraction ÷ bound, measured before and after it, ÷ plain loop; rounds take turns."""
    alias, folder = encoder.alias, folder / encoder.alias
    bounds, plains, rates, work, memory = [], [], [], [], 0
    encoder.tokens(torch.zeros(BATCH, 3, *encoder.preprocess.output))
    for number in range(rounds):
        before = bound(folder, encoder, paths)
        with peak_memory() as peak:
            root = folder / f"root-{number}"
            own = took(partial(extract, paths, [encoder], root=root, batch_size=BATCH, progress="none"))
        after = bound(folder, encoder, paths)
        plain = took(lambda: plain_loop(folder, encoder, paths))
        bounds.append((before.wall + after.wall) / 2 / own.wall)
        plains.append(plain.wall / own.wall)
        rates.append(len(paths) / own.wall)
        work.append((before.processor + after.processor) / 2 / own.processor)
        memory = max(memory, *peak)
    return [
        Figure(f"{alias}: JPEG to store ÷ model alone + decoding + raw write", median(bounds), wanted=0.95),
        Figure(f"{alias}: the same in processor seconds, which other work disturbs less", median(work)),
        Figure(f"{alias}: JPEG to store ÷ plain sequential loop", median(plains)),
        Figure(f"{alias}: the same", median(rates), "img/s"),
        Figure(f"{alias}: memory it adds to the process at its peak", memory / 2**20, "MiB"),
    ]


def bound(folder: Path, encoder: Encoder, paths: Sequence[Path]) -> Took:
    """What the model on ready tensors, decoding by extraction's threads and writing as many bytes take, each alone."""

    def decode(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            return encoder.preprocess(image)

    with decoding_pool(decoding_threads()) as pool:
        pixels: list[torch.Tensor] = []
        decoding = took(lambda: pixels.extend(pool.map(decode, paths)))
    batches = [torch.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    model = took(partial(encode, encoder, batches))
    size = len(paths) * encoder.num_tokens * encoder.width * (4 if encoder.dtype == "fp32" else 2)
    folder.mkdir(exist_ok=True)
    writing = took(lambda: _write(folder / "raw", bytes(size)))
    shared = max(model.wall, decoding.wall) if torch.cuda.is_available() else model.wall + decoding.wall
    return Took(shared + writing.wall, model.processor + decoding.processor + writing.processor)


def encode(encoder: Encoder, batches: Sequence[torch.Tensor]) -> None:
    """The model on ready tensors, until the last is done."""
    for batch in batches:
        encoder.tokens(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compiled_figure(folder: Path, paths: Sequence[Path], *, dtype: str, device: str, rounds: int) -> Figure:
    """What compiling gains the model, compilation itself left out."""
    eager, fast = (
        load_encoder(f"vit=timm:{folder}/vit?dtype={dtype}{more}", device=device) for more in ("", "&compile=yes")
    )
    pixels = torch.stack([eager.preprocess(Image.open(path)) for path in paths[:BATCH]])
    encode(fast, [pixels])
    ratios = [
        took(partial(encode, eager, [pixels])).wall / took(partial(encode, fast, [pixels])).wall
        for _ in range(rounds)
    ]
    return Figure(f"{dtype}: the model alone with compile=yes, times as fast", median(ratios))


def plain_loop(folder: Path, encoder: Encoder, paths: Sequence[Path]) -> None:
    """What one writes first: open, preprocess, encode and save, one after the other."""
    for start in range(0, len(paths), BATCH):
        pixels = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                pixels.append(encoder.preprocess(image))
        np.save(folder / f"plain-{start}.npy", encoder.tokens(torch.stack(pixels)).cpu().numpy())


def error_of_bf16(folder: Path, paths: Sequence[Path]) -> float:
    """Relative L2 error over one batch."""
    full, half = (load_encoder(f"vit=timm:{folder}/vit?dtype={dtype}") for dtype in ("fp32", "bf16"))
    pixels = torch.stack([full.preprocess(Image.open(path)) for path in paths[:8]])
    expected = full.tokens(pixels)
    return float((half.tokens(pixels).to(torch.bfloat16).float() - expected).norm() / expected.norm())


def textured(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 x 375 with texture at several scales, quality 90."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        draw = np.random.default_rng(number)
        layers = [draw.integers(0, 256, (size * 3, size * 4, 3), dtype=np.uint8) for size in (2, 15, 60)]
        planes = [np.asarray(Image.fromarray(layer).resize((500, 375), Image.Resampling.BICUBIC)) for layer in layers]
        Image.fromarray(np.mean(planes, axis=0).astype(np.uint8)).save(path, quality=90)
    return paths


def checkpoint(folder: Path) -> None:
    """ViT-S/16 at full size with random weights, in timm's folder form."""
    from encoders import torchvision_compat  # noqa: F401  # isort: skip
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", pretrained=False)
    settings = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    described = {**settings, "crop_pct": 0.9, "crop_mode": "center"}
    config = {"architecture": "vit_small_patch16_224", "num_classes": 1000, "pretrained_cfg": described}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def took(work: Callable[[], object]) -> Took:
    """Runs a call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - processor)
