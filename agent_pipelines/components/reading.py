"""Reading a declaration from YAML: templates of Dagster first, then validation, with errors that name the field."""

import difflib
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from agent_pipelines.components.problems import refuse
from agent_pipelines.components.schema import schema_of
from agent_pipelines.components.source import Source, Way, field_of, way_of
from agent_pipelines.context.templates import check_template
from agent_pipelines.core.errors import DefinitionError

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
        found = [_problem(model, details, source, tuple(below)) for details in error.errors(include_url=False)]
    refuse(found)
    raise AssertionError("a validation error without details")


def _problem(model: type[BaseModel], details: ErrorDetails, source: Source, below: tuple[str | int, ...]) -> DefinitionError:
    path, owner, info, judged = _walk(model, details["loc"])
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    kind = details["type"]
    if kind == "extra_forbidden":
        return source.problem(f"`{path[-1]}` is not a field here", (*below, *path), _near(str(path[-1]), _names(owner)))
    if kind == "missing":
        return source.problem("is missing", (*below, *path), _described("Add it", info))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        written = details.get("ctx", {}).get("tag")
        problem = "has no `kind`" if written is None else f"there is no kind {written!r}"
        kinds = sorted(member.model_fields["kind"].default for member in _models_in(info.annotation if info else None))
        return source.problem(problem, (*below, *path), f"Write `kind:` and one of {', '.join(kinds)}")
    if kind == "value_error":
        # A validator of a whole model begins with the name of the field that it means.
        named, separator, rest = message.partition(": ")
        if separator and named in _names(judged):
            return source.problem(rest, (*below, *path, *way_of(named)))
        return source.problem(message, (*below, *path))
    if isinstance(details["input"], str | int | float | bool):
        message = f"{message}, not {details['input']!r}"
    return source.problem(message, (*below, *path), _described("Meant is", info))


def _walk(
    model: type[BaseModel], location: Way
) -> tuple[tuple[str | int, ...], type[BaseModel] | None, FieldInfo | None, type[BaseModel] | None]:
    """The way to a field as it is written, the model that it belongs to, the field, and the model that stands in it.

    For a union, pydantic's way has the name of the chosen member in between.
    """
    path: list[str | int] = []
    owner: type[BaseModel] | None = None
    info: FieldInfo | None = None
    members: tuple[type[BaseModel], ...] = (model,)
    for part in location:
        if isinstance(part, int):
            path.append(part)
            continue
        if len(members) > 1:
            members = tuple(member for member in members if member.model_fields["kind"].default == part)
            continue
        path.append(part)
        owner = members[0] if members else None
        info = _field(owner, part)
        members = () if info is None else _models_in(info.annotation)
    if not path:
        owner = model
    return tuple(path), owner, info, members[0] if len(members) == 1 else None


def _field(owner: type[BaseModel] | None, name: str) -> FieldInfo | None:
    if owner is None:
        return None
    return next((info for known, info in owner.model_fields.items() if name in (known, info.alias)), None)


def _names(owner: type[BaseModel] | None) -> list[str]:
    return [] if owner is None else [info.alias or name for name, info in owner.model_fields.items()]


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for part in typing.get_args(annotation) for model in _models_in(part))


def _near(wrong: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"There is: {', '.join(sorted(known))}"


def _described(start: str, info: FieldInfo | None) -> str | None:
    if info is None or not info.description:
        return None
    example = f" For example: {info.examples[0]}" if info.examples else ""
    return f"{start}: {info.description}{example}"
