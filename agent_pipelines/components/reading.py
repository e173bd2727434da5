"""Reading a declaration from YAML: templates of Dagster first, then validation, with errors that name the field."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from agent_pipelines.components.schema import schema_of
from agent_pipelines.components.source import Source
from agent_pipelines.context.templates import check_template
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.refusals import Way, field_of, refusals

Declared = TypeVar("Declared", bound=BaseModel)


class Attributes(BaseModel):
    """The attributes of a component as they stand in YAML, not yet judged; only their JSON Schema is exact."""

    model_config = ConfigDict(extra="allow")

    model_of: ClassVar[type[BaseModel]]
    optional: ClassVar[Collection[str]] = ()

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return schema_of(cls.model_of, optional=cls.optional)

    @property
    def written(self) -> dict[str, Any]:
        """What was written."""
        return dict(self.model_extra or {})


def substitute(
    values: Mapping[str, Any], context: dg.ResolutionContext, source: Source, *, verbatim: Callable[[Way], bool]
) -> dict[str, Any]:
    """Put values in the place of Dagster's templates, except in the fields that are `verbatim`.

    Raises DefinitionError for a template that uses an unknown name: Dagster itself would make it empty text.
    """

    def walk(value: Any, path: tuple[str | int, ...]) -> Any:
        if verbatim(path):
            return value
        if isinstance(value, dict):
            return {key: walk(part, (*path, str(key))) for key, part in value.items()}
        if isinstance(value, list):
            return [walk(part, (*path, index)) for index, part in enumerate(value)]
        if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
            return value
        try:
            check_template(value, names=context.scope.keys(), field=field_of(path))
            resolved = context.resolve_value(value)
        except DefinitionError as error:
            raise source.problem(error.problem, path, error.fix) from None
        except Exception as error:
            raise source.problem(f"the template cannot be resolved: {error}", path) from None
        if resolved is None:
            raise source.problem(
                f"{value} has no value", path, "Set the environment variable, or write {{ env('NAME', 'default') }}"
            )
        return resolved

    return {name: walk(value, (name,)) for name, value in values.items()}


def validate(model: type[Declared], values: Mapping[str, Any], source: Source, *, below: Way = ()) -> Declared:
    """Make the model of a declaration; `below` is the field that the values stand in.

    Raises DefinitionError, one for all that is wrong.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = [source.problem(each.words, (*below, *each.way), each.fix) for each in refusals(model, error)]
    refuse(found)
    raise AssertionError("a validation error without details")
