"""One request, read: whose it is and what it asks for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.refusals import field_of, refusals
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.storable import storable
from agent_pipelines.web.problem import Refused

MAX_BODY = 16 * 1024 * 1024
"""Bytes that a body may have."""

_MAX_ACTOR = 100  # characters
_UNSTORABLE = "a NUL character, half of a surrogate pair or a number without bounds, which the record cannot hold; leave it out"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Call:
    """A request whose sender is known. `body` is None if there was none, else the JSON value."""

    path: Mapping[str, str]
    parameters: Mapping[str, str]
    raw: bytes
    actor: str
    bearer: str | None = None
    """The token that the request bears, whosever it is."""

    @classmethod
    async def of(cls, request: Request) -> "Call":
        """Read a request. Raises Refused if it is too large or no JSON."""
        raw = await _body(request)
        if raw and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as application/json")
        path, parameters = dict(request.path_params), dict(request.query_params)
        if storable([*path.values(), *parameters.values()]) != [*path.values(), *parameters.values()]:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the address holds {_UNSTORABLE}")
        return cls(path, parameters, raw, _actor(request), _bearer(request))

    @property
    def body(self) -> Any:
        """The body as a JSON value, None without one. Raises Refused if it is no JSON that the record can hold."""
        try:
            value = json.loads(self.raw, parse_constant=_no_number) if self.raw else None
            is_storable = storable(value) == value
        except (ValueError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
        if not is_storable:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body holds {_UNSTORABLE}")
        return value

    def query(self, model: type[Model]) -> Model:
        """The parameters of the address. Raises DefinitionError for what is wrong with them."""
        return _validated(model, self.parameters)

    def read(self, model: type[Model]) -> Model:
        """The body as a model; none at all is an empty object. Raises DefinitionError for what is wrong with it."""
        body = self.body
        if body is not None and not isinstance(body, dict):
            raise DefinitionError("is not an object", fix=f"Write one with the fields {', '.join(model.model_fields)}")
        return _validated(model, body or {})

    def key(self, workspace: str) -> TaskKey:
        """The task that the address names."""
        return (workspace, self.path["application"], self.path["task"])


def _validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = [DefinitionError(each.words, field=field_of(each.way) or None, fix=each.fix) for each in refusals(model, error)]
    refuse(found)
    raise AssertionError("a validation error without details")


async def _body(request: Request) -> bytes:
    too_large = Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {MAX_BODY:,} bytes; send several")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY:
        raise too_large
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY:
            raise too_large
    return bytes(parts)


def _actor(request: Request) -> str:
    named = request.headers.get("x-actor", "token").strip()
    if not 0 < len(named) <= _MAX_ACTOR or not named.isprintable() or redactor.text(named) != named:
        raise Refused(HTTPStatus.BAD_REQUEST, f"X-Actor: write a name of 1 to {_MAX_ACTOR} printable characters, and no secret")
    return f"api:{named}"


def _bearer(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
