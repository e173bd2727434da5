"""How much of something there may be in a length of time, as people write it."""

import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.duration import Duration

_FORM = re.compile(r"([\d_]+)\s*/\s*(?=\S)(\d*\.?\d*)\s*(ms|s|m|h|d)")


class Rate(str):
    """An amount for each period, written as `10/s`, `100000/m`, `5/10s`."""

    __slots__ = ("amount", "period")

    amount: int
    period: Microseconds

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a rate. Raises ValueError for anything else, and for nothing in a period."""
        found = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{value!r} is not a rate; write an amount and a period, as in 10/s, 100000/m, 5/10s")
        amount = int(found[1].strip("_") or 0)
        period = round(Duration.parse(f"{found[2] or 1}{found[3]}") * 1_000_000)
        if amount < 1 or period < 1:
            raise ValueError(f"{value!r} is not a rate; amount and period must be more than zero")
        rate = cls(f"{amount}/{found[2]}{found[3]}")
        rate.amount, rate.period = amount, period
        return rate

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_FORM.pattern}$", "examples": ["10/s"]}
