"""Checks values against the shipped JSON Schemas."""

from __future__ import annotations

import json
from typing import Any, Literal

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from analysis.schemas import schema_of


def validate(name: Literal["results", "leaderboard"], value: Any) -> None:
    """Raises jsonschema.ValidationError where the value, as JSON, is not what the schema says."""
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    results = schema_of("results")
    registry: Registry[Any] = Registry().with_resource(results["$id"], Resource.from_contents(results))
    Draft202012Validator(schema, registry=registry).validate(json.loads(json.dumps(value)))
