"""What went wrong, as RFC 9457 has it."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from agent_pipelines.core.errors import AgentPipelinesError, DefinitionError, StorageError
from agent_pipelines.core.problems import DefinitionErrors
from agent_pipelines.core.secrets import redactor
from agent_pipelines.fleet.nodes import NodeInUse, UnknownNode
from agent_pipelines.fleet.orders import OrderRefused
from agent_pipelines.governance.human_tasks import AlreadyAnswered, NoHumanTask
from agent_pipelines.registry.registry import NotInState, NotRegistered

_log = logging.getLogger("agent_pipelines.web")


CHALLENGE = 'Bearer realm="agent-pipelines"'
"""What a 401 asks for (RFC 6750, section 3)."""


class Refused(AgentPipelinesError):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str | None]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as an answer, without secrets; `errors` has one entry for each field that is wrong."""
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    if errors is not None:
        body["errors"] = errors
    return JSONResponse(redactor.value(body), status.value, headers, media_type="application/problem+json")


def answer_to(error: Exception) -> JSONResponse:
    """The answer to a request that raised."""
    match error:
        case Refused():
            asks = {"WWW-Authenticate": CHALLENGE} if error.status is HTTPStatus.UNAUTHORIZED else None
            return problem(error.status, str(error), headers=asks)
        case DefinitionError():
            each = error.problems if isinstance(error, DefinitionErrors) else (error,)
            errors = [{"field": _field(one), "problem": one.problem, "fix": one.fix} for one in each]
            words = f"{len(errors)} fields are wrong" if len(errors) > 1 else str(error)
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, errors=errors)
        case NotRegistered() | NoHumanTask() | UnknownNode():
            return problem(HTTPStatus.NOT_FOUND, str(error))
        case NotInState() | AlreadyAnswered() | NodeInUse() | OrderRefused():
            return problem(HTTPStatus.CONFLICT, str(error))
        case StorageError():
            _log.error("%s", redactor.text(str(error)))
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the record cannot be used just now; the log says why")
        case _:
            _log.error("a request failed", exc_info=error)
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of this server; its log says more")


def _field(error: DefinitionError) -> str | None:
    """The field, behind the place of its task in a list."""
    parts = [str(error.file) if error.file else "", error.field or ""]
    return ".".join(part for part in parts if part) or None
