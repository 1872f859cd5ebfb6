"""The JSON Schemas (2020-12) of what a report is made from, as shipped with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Literal


def schema_of(name: Literal["results", "leaderboard"]) -> dict[str, Any]:
    """Of `results.json`, or of `leaderboard.json`, which refers to parts of the first by its `$id`."""
    text = (files("analysis") / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
