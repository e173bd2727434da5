"""Making any value fit to be recorded."""

from typing import Any

from pydantic import JsonValue

from agent_pipelines.core.secrets import redactor
from agent_pipelines.store.storable import storable, storable_text


def recordable_text(text: str) -> str:
    """The text without secrets and without what a database cannot keep."""
    return redactor.text(storable_text(text))


def recordable(value: Any) -> JsonValue:
    """The JSON-like value without secrets and without what a database cannot keep."""
    return storable(redactor.value(value))
