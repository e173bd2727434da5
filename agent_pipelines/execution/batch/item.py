"""One item of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from agent_pipelines.context.templates import render
from agent_pipelines.core.errors import DefinitionError, ExecutionFailed


@dataclass(frozen=True, slots=True)
class Item:
    """What one execution of a batch is about. `position` counts from 0; `offset` is the byte of its file that it begins at."""

    position: int
    value: JsonValue
    offset: int | None = None


def keys_by(key: str | None, file: Path | str | None = None) -> Callable[[Item], str]:
    """A function that names items: by a field, by a template, or by their position.

    It raises DefinitionError for an item that has no such name.
    """
    if key is None:
        return lambda item: str(item.position)
    template = key if "{{" in key else None

    def name(item: Item) -> str:
        where = f"item {item.position}"
        if template is not None:
            try:
                named = render(template, {"item": item.value}, name=f"batch.key of {where}")
            except ExecutionFailed as error:
                raise DefinitionError(error.message, field="batch.key", file=file) from None
        else:
            value = item.value
            if not isinstance(value, dict) or value.get(key) is None:
                known = ", ".join(value) if isinstance(value, dict) else f"it is no object but {type(value).__name__}"
                fix = f"Name one of its fields: {known}" if isinstance(value, dict) else f"Leave `key` out: {known}"
                raise DefinitionError(f"{where} has no field `{key}`", field="batch.key", file=file, fix=fix)
            named = str(value[key])
        if not named:
            raise DefinitionError(
                f"{where} has an empty name", field="batch.key", file=file, fix="Use a field that is never empty"
            )
        return named

    return name
