"""Nouns as plain JSON, the same in every interface.

Names of fields are those of the record. Instants are ISO 8601 in UTC, durations seconds.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, cast

from pydantic import BaseModel

from agent_pipelines.core.clock import isoformat


def record(model: BaseModel, **besides: Any) -> dict[str, Any]:
    """A noun as JSON: its fields, and those given besides."""
    fields = {name: getattr(model, name) for name in type(model).model_fields}
    named = {name.removesuffix("_us") + "_seconds" if name.endswith("_us") else name: name for name in fields}
    return {shown: _plain(name, fields[name]) for shown, name in named.items()} | besides


def _plain(name: str, value: Any) -> Any:
    match value:
        case BaseModel():
            return record(value)
        case Enum():
            return value.value
        case int() if name == "at" or name.endswith("_at"):
            return isoformat(value)
        case int() if name.endswith("_us"):
            return value / 1_000_000
        case tuple() | list():
            items = cast(Sequence[Any], value)
            return [record(item) if isinstance(item, BaseModel) else item for item in items]
        case _:
            return value
