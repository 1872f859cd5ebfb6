"""Where the classification query looks, per encoder.

Handed `attention.parquet` (task, seed, coalition, layer, head, encoder, mass, token_share, n); hands on
mass, token share and lift of each encoder in the full coalition, and the mass by layer. This describes a
model and attributes nothing: attention can be high where ablation shows no effect. No interval is possible,
as the file holds means over examples; the leaves say so.
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
        }
    return result


def _by_layer(rows: list[AttentionRow]) -> list[float]:
    layers = sorted({int(row["layer"]) for row in rows})
    return [
        rounded(float(np.mean([row["mass"] for row in rows if row["layer"] == layer]))) for layer in layers
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def agreement_with_shapley(attention: dict[str, Any], shapley: dict[str, Leaf]) -> Leaf:
    """Rank correlation of attention lift and Shapley value over encoders; few encoders, hence no interval."""
    both = [alias for alias in shapley if is_run(shapley[alias]) and is_run(attention[alias]["lift"])]
    if len(both) < 3:
        return not_run("needs attention and Shapley values of at least three encoders")
    lifts, values = [attention[a]["lift"]["value"] for a in both], [shapley[a]["value"] for a in both]
    if len(set(lifts)) == 1 or len(set(values)) == 1:
        return not_run("undefined: all encoders tie")
    correlation = float(spearmanr(lifts, values).statistic)
    return without_interval(correlation, n=len(both), why="a rank correlation over a handful of encoders")
