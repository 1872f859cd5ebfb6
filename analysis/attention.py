"""Where the classification query looks, per encoder.

Handed `attention.parquet` (task, seed, coalition, layer, head, encoder, mass, token_share, n); hands on
mass, token share and lift of each encoder in the full coalition, and the mass by layer. This describes a
model and attributes nothing: attention can be high where ablation shows no effect, so it is set beside the ablation
values, with rank correlations and a flag on every encoder of which the two say different things. No interval is
possible, as the file holds means over examples; the leaves say so. `analysis.live_attention` looks at a model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from analysis.coalition_values import coalition_name
from analysis.errors import RunFolderError
from analysis.leaves import Leaf, is_run, not_run, rounded, without_interval

COLUMNS = ("task", "seed", "coalition", "layer", "head", "encoder", "mass", "token_share", "n")
HARDLY = 0.5
"""Lift below which an encoder is hardly looked at."""
NO_INTERVAL = "attention is stored as means over examples, without their spread"

AttentionRow = dict[str, Any]


def read_attention(run_folder: Path) -> list[AttentionRow] | None:
    """All rows of the file; None where the run stored none.

    Raises:
        RunFolderError: unreadable, or lacking a column.
    """
    path = run_folder / "attention.parquet"
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} is no readable Parquet file ({error})") from error
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise RunFolderError(f"{path} lacks the columns {', '.join(missing)}")
    rows: list[AttentionRow] = table.select(list(COLUMNS)).to_pylist()
    return rows


def attention_results(
    rows: list[AttentionRow] | None, task: str, encoders: Sequence[str], contributions: dict[str, Any]
) -> dict[str, Any]:
    """Attention of the full coalition, and how it agrees with what ablation says."""
    looked = attention_of(rows, task, encoders)
    return {
        "attention": looked,
        "attention_vs_shapley": agreement(looked, contributions["shapley"], what="Shapley values"),
        "attention_vs_leave_one_out": agreement(looked, contributions["leave_one_out"], what="leave-one-out"),
        "attention_flags": disagreements(looked, contributions["shapley"]),
    }


def attention_of(rows: list[AttentionRow] | None, task: str, encoders: Sequence[str]) -> dict[str, Any]:
    """Mass, token share, lift and mass by layer for each encoder.

    Lift is the encoder's share of the mass that goes to any encoder, over its share of the encoders'
    tokens; 1 is what indifference would give.
    """
    full = coalition_name(encoders)
    mine = [row for row in rows or [] if row["task"] == task and row["coalition"] == full]
    per_encoder = {alias: [row for row in mine if row["encoder"] == alias] for alias in encoders}
    if not all(per_encoder.values()):
        reason = not_run("no attention was stored for the full coalition")
        return {alias: {"mass": reason, "token_share": reason, "lift": reason} for alias in encoders}
    mass = {alias: float(np.mean([row["mass"] for row in found])) for alias, found in per_encoder.items()}
    share = {
        alias: float(np.mean([row["token_share"] for row in found])) for alias, found in per_encoder.items()
    }
    result = {}
    for alias, found in per_encoder.items():
        n = int(max(row["n"] for row in found))
        lift = _ratio(_ratio(mass[alias], sum(mass.values())), _ratio(share[alias], sum(share.values())))
        result[alias] = {
            "mass": without_interval(mass[alias], n=n, why=NO_INTERVAL),
            "token_share": rounded(share[alias]),
            "lift": without_interval(lift, n=n, why=NO_INTERVAL),
            "by_layer": _by_layer(found),
            "by_head": _by_head(found),
        }
    return result


def _by_layer(rows: list[AttentionRow]) -> list[float]:
    layers = sorted({int(row["layer"]) for row in rows})
    return [
        rounded(float(np.mean([row["mass"] for row in rows if row["layer"] == layer]))) for layer in layers
    ]


def _by_head(rows: list[AttentionRow]) -> list[list[float]]:
    """Mass per layer and head, averaged over seeds."""
    layers, heads = (sorted({int(row[axis]) for row in rows}) for axis in ("layer", "head"))
    cell: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        cell.setdefault((int(row["layer"]), int(row["head"])), []).append(float(row["mass"]))
    return [[rounded(float(np.mean(cell.get((layer, head), [0.0])))) for head in heads] for layer in layers]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def agreement(attention: dict[str, Any], ablation: dict[str, Leaf], *, what: str) -> Leaf:
    """Rank correlation of attention lift with an ablation value over encoders; few encoders, hence no interval."""
    both = [alias for alias in ablation if is_run(ablation[alias]) and is_run(attention[alias]["lift"])]
    if len(both) < 3:
        return not_run(f"needs attention and {what} of at least three encoders")
    lifts, values = [attention[a]["lift"]["value"] for a in both], [ablation[a]["value"] for a in both]
    if len(set(lifts)) == 1 or len(set(values)) == 1:
        return not_run("undefined: all encoders tie")
    correlation = float(spearmanr(lifts, values).statistic)
    found = without_interval(correlation, n=len(both), why="a rank correlation over a handful of encoders")
    return {**found, "disagrees": correlation <= 0}


def disagreements(attention: dict[str, Any], shapley: dict[str, Leaf]) -> list[dict[str, Any]]:
    """Encoders that are looked at more than their tokens' share and are not shown to add anything, and those that add
    and are hardly looked at."""
    flags = []
    for alias, value in shapley.items():
        lift = attention[alias]["lift"]
        if not (is_run(lift) and is_run(value)):
            continue
        adds = value["ci95"][0] > 0
        if lift["value"] >= 1 and not adds:
            flags.append({"encoder": alias, "flag": "looked at, not shown to add", "lift": lift, "shapley": value})
        elif lift["value"] < HARDLY and adds:
            flags.append({"encoder": alias, "flag": "adds, hardly looked at", "lift": lift, "shapley": value})
    return flags
