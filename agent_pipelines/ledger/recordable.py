"""Making any value fit to be recorded."""

from typing import Any

from pydantic import JsonValue

from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.secrets import redactor
from agent_pipelines.store.storable import storable, storable_text


def recordable_text(text: str) -> str:
    """The text without secrets and without what a database cannot keep."""
    return redactor.text(storable_text(text))


def recordable(value: Any) -> JsonValue:
    """The JSON-like value without secrets and without what a database cannot keep."""
    return storable(redactor.value(value))


def error_columns(error: tuple[ErrorClass, Stage, str] | None) -> dict[str, str | None]:
    """The columns that tell of an error, all None if there is none."""
    if error is None:
        return {"error_class": None, "error_stage": None, "error_message": None}
    error_class, stage, message = error
    return {"error_class": str(error_class), "error_stage": str(stage), "error_message": recordable_text(message)}
