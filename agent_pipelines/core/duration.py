"""Lengths of time as people write them."""

import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+")


class Duration(float):
    """Seconds, written as a number of seconds or with units: `90`, `1m 30s`, `1.5h`, `2d`.

    A subclass of float with a pydantic schema of its own, because Dagster refuses `Annotated` fields in nested models.
    """

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number of seconds or a text with units. Raises ValueError for anything else and below zero."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        else:
            raise ValueError(f"{value!r} is not a duration; write seconds or units, as in 90, 30s, 15m, 1h 30m, 2d")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"{value!r} is not a duration; it must be zero or more")
        return cls(seconds)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(float)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^({_PART.pattern}\\s*)+$"}]}
