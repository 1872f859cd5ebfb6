"""`python -m experiments.probe_demo_encoders`: what a linear probe can read from each shipped encoder, per factor.

Logistic regression on each encoder's mean prefix and mean grid token, over scenes that neither the encoders nor the
tasks saw. Accuracy on held-out scenes with a 95 % bootstrap interval over them, beside chance.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from encoders.base import Encoder

ENCODERS = ("vit", "clip", "dino", "convnext")
FACTORS = ("shape", "size", "position", "colour", "texture", "count", "background", "text")
TITLES = {"text": "written word"}
SEED_BASE = 2**41
RESAMPLES = 2000
LEAD = 0.05


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Per test scene, whether the probe was right; and the share of the most frequent value."""

    right: np.ndarray
    chance: float

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def interval(self, other: ProbeScore | None = None) -> tuple[float, float]:
        """95 % percentile interval of the accuracy, or of the difference to another encoder's on the same scenes."""
        values = self.right.astype(float) - (0 if other is None else other.right.astype(float))
        rng = np.random.default_rng(0)
        means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.probe_demo_encoders", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/demo_encoders.md"), help="where the table is written")
    parser.add_argument("--scenes", type=int, default=6000, help="scenes, of which two thirds train the probes")
    args = parser.parse_args(argv)
    from encoders import load_encoder

    pictures, labels = probe_scenes(args.scenes)
    features = {name: pooled_features(load_encoder(f"demo:{name}"), pictures) for name in ENCODERS}
    scores = {factor: {name: probe(features[name], labels[factor]) for name in ENCODERS} for factor in FACTORS}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(scores, args.scenes), encoding="utf-8")
    print(table(scores))
    print(args.out)
    return 0


def probe_scenes(count: int) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Pictures as read back from JPEG, and the value of each factor, "" where a scene has none.

    Attributes are asked of scenes with one object; the count of all.
    """
    from PIL import Image

    from experiments.world.renderer import jpeg_bytes, render
    from experiments.world.scene import CANVAS, EVERYTHING, draw_scene

    pictures = []
    values: dict[str, list[str]] = {factor: [] for factor in FACTORS}
    for k in range(count):
        scene = draw_scene(np.random.default_rng([SEED_BASE, k]), EVERYTHING)
        pictures.append(Image.open(io.BytesIO(jpeg_bytes(render(scene)))).convert("RGB"))
        item = scene.items[0] if len(scene.items) == 1 else None
        for factor in ("shape", "size", "colour", "texture"):
            values[factor].append(item.attribute(factor) if item else "")
        cell = f"{int(3 * item.x / CANVAS)}-{int(3 * item.y / CANVAS)}" if item else ""
        values["position"].append(cell)
        values["count"].append(str(min(len(scene.items), 5)))
        values["background"].append(scene.background)
        values["text"].append(scene.top_text)
    return pictures, {factor: np.asarray(column) for factor, column in values.items()}


def pooled_features(encoder: Encoder, pictures: list[Any]) -> np.ndarray:
    """Mean prefix token (where there is one) beside mean grid token, n × (d or 2d)."""
    import torch

    rows = []
    with torch.no_grad():
        for start in range(0, len(pictures), 64):
            batch = torch.stack([encoder.preprocess(image) for image in pictures[start : start + 64]])
            tokens = encoder.tokens(batch)
            prefix, grid = tokens[:, : encoder.num_prefix], tokens[:, encoder.num_prefix :]
            parts = [part.mean(1) for part in (prefix, grid) if part.shape[1]]
            rows.append(torch.cat(parts, dim=-1).numpy())
    return np.concatenate(rows)


def probe(features: np.ndarray, values: np.ndarray) -> ProbeScore:
    """Trains on the first two thirds of the scenes that have the factor, tests on the rest."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    kept = values != ""
    x, y = features[kept], values[kept]
    split = 2 * len(y) // 3
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=400, C=0.1))
    model.fit(x[:split], y[:split])
    _, counts = np.unique(y[split:], return_counts=True)
    return ProbeScore(model.predict(x[split:]) == y[split:], float(counts.max() / counts.sum()))


def leads(scores: Mapping[str, ProbeScore]) -> str | None:
    """The encoder that leads every other by 5 points or more with an interval that excludes zero, if one does."""
    best = max(scores, key=lambda name: scores[name].accuracy)
    for name, other in scores.items():
        if name != best:
            ahead = scores[best].accuracy - other.accuracy
            if ahead < LEAD or scores[best].interval(other)[0] <= 0:
                return None
    return best


def table(scores: Mapping[str, Mapping[str, ProbeScore]]) -> str:
    """Markdown: a row a factor, a column an encoder; a clear leader in bold."""
    lines = ["| factor | n | chance | " + " | ".join(ENCODERS) + " |", "|---" * (len(ENCODERS) + 3) + "|"]
    for factor, row in scores.items():
        leader = leads(row)
        cells = []
        for name in ENCODERS:
            low, high = row[name].interval()
            text = f"{100 * row[name].accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f})"
            cells.append(f"**{text}**" if name == leader else text)
        first = next(iter(row.values()))
        title = TITLES.get(factor, factor)
        lines.append(f"| {title} | {len(first.right)} | {100 * first.chance:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(scores: Mapping[str, Mapping[str, ProbeScore]], scenes: int) -> str:
    """The docs page."""
    return (
        "# What the shipped encoders see\n\n"
        f"Linear-probe accuracy in %, with 95 % bootstrap intervals over held-out scenes; {scenes:,} scenes, two thirds"
        " train the probes. Chance is the most frequent value. **Bold**: leads every other encoder by 5 points or more"
        " with a paired interval that excludes zero. Made by `python -m experiments.probe_demo_encoders`.\n\n"
        f"{table(scores)}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
