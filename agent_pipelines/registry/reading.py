"""Reading a specification that somebody sends."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.refusals import field_of, refusals
from agent_pipelines.core.task import TaskSpec


def read_spec(values: Any, *, place: str | None = None) -> TaskSpec:
    """Make the specification of plain values; `place` is where they were written.

    Raises DefinitionError, one for all that is wrong.
    """
    if not isinstance(values, Mapping):
        fix = "Write its fields: name, application, intent, agent, prompt, triggers"
        raise DefinitionError(f"is not a task but {type(values).__name__}", file=place, fix=fix)
    try:
        return TaskSpec.model_validate(dict(values))  # pyright: ignore[reportUnknownArgumentType]
    except ValidationError as error:
        found = [
            DefinitionError(each.words, field=field_of(each.way) or None, file=place, fix=each.fix)
            for each in refusals(TaskSpec, error)
        ]
    refuse(found)
    raise AssertionError("a validation error without details")
