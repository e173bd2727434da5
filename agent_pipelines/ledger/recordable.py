"""Making any value fit to be recorded."""

import math
from typing import Any, cast

from pydantic import JsonValue

from agent_pipelines.core.secrets import redactor


def recordable_text(text: str) -> str:
    """The text without secrets and without the NUL character, which PostgreSQL cannot keep."""
    return redactor.text(text.replace("\x00", ""))


def recordable(value: Any) -> JsonValue:
    """The JSON-like value without secrets; NUL characters and numbers that JSON does not know become nothing and null."""
    return _plain(redactor.value(value))


def _plain(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return value.replace("\x00", "")
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {cast(str, _plain(key)): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
