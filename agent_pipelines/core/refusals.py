"""What pydantic refuses of a declaration, in words that name the field and what would be right."""

import difflib
import re
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Way = Sequence[str | int]
"""The way to a field: `("triggers", 0, "cron")`."""


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a field."""

    words: str
    way: tuple[str | int, ...] = ()
    fix: str | None = None


def refusals(model: type[BaseModel], error: ValidationError) -> Iterator[Refusal]:
    """All that is wrong with the values that a model refused."""
    return (_refusal(model, details) for details in error.errors(include_url=False))


def field_of(way: Way) -> str:
    """Write the way to a field as people do: `triggers[0].cron`."""
    text = ""
    for part in way:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def way_of(text: str) -> tuple[str | int, ...]:
    """Read the way to a field from its written form."""
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def _refusal(model: type[BaseModel], details: ErrorDetails) -> Refusal:
    path, owner, info, judged = _walk(model, details["loc"])
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    kind = details["type"]
    if kind == "extra_forbidden":
        return Refusal(f"`{path[-1]}` is not a field here", path, _near(str(path[-1]), _names(owner)))
    if kind == "missing":
        return Refusal("is missing", path, _described("Add it", info))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        written = details.get("ctx", {}).get("tag")
        problem = "has no `kind`" if written is None else f"there is no kind {written!r}"
        kinds = sorted(member.model_fields["kind"].default for member in _models_in(info.annotation if info else None))
        return Refusal(problem, path, f"Write `kind:` and one of {', '.join(kinds)}")
    if kind == "value_error":
        # A validator of a whole model begins with the name of the field that it means.
        named, separator, rest = message.partition(": ")
        if separator and named in _names(judged):
            return Refusal(rest, (*path, *way_of(named)))
        return Refusal(message, path)
    if isinstance(details["input"], str | int | float | bool):
        message = f"{message}, not {details['input']!r}"
    return Refusal(message, path, _described("Meant is", info))


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
