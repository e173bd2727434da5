"""The HTTP interface: a request is read, one operation works on it outside the event loop, and its answer is rendered."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_pipelines.core.declared import Declared
from agent_pipelines.core.secrets import redactor
from agent_pipelines.hub import Hub
from agent_pipelines.web.batches import BatchOperations
from agent_pipelines.web.call import Call
from agent_pipelines.web.fleet import FleetOperations
from agent_pipelines.web.guard import Guard
from agent_pipelines.web.health import Look, status_operation
from agent_pipelines.web.human_tasks import HumanTaskOperations
from agent_pipelines.web.limits import LimitOperations
from agent_pipelines.web.openapi import document
from agent_pipelines.web.operation import Answer, Operation
from agent_pipelines.web.problem import answer_to, problem
from agent_pipelines.web.records import RecordOperations
from agent_pipelines.web.tasks import TaskOperations
from agent_pipelines.web.token import ApiToken
from agent_pipelines.web.waits import WaitOperations

PREFIX = "/api/v1"
"""Where the interface is mounted."""


def operations(hub: Hub, declared: Callable[[], Declared], look: Look) -> Sequence[Operation]:
    """All operations of the interface, the description of the others among them."""
    others = [
        *TaskOperations(hub, declared).all(),
        *RecordOperations(hub).all(),
        *LimitOperations(hub).all(),
        *HumanTaskOperations(hub).all(),
        *WaitOperations(hub).all(),
        *FleetOperations(hub, declared).all(),
        *BatchOperations(hub).all(),
        status_operation(look),
    ]

    def describe(_: Call) -> Answer:
        return HTTPStatus.OK, document([*others, description], PREFIX)

    description = Operation("GET", "/openapi.json", "This description.", describe)
    return [*others, description]


def build_api(hub: Hub, token: ApiToken, declared: Callable[[], Declared], look: Look) -> Starlette:
    """The interface as an application. `declared` tells what registered tasks may refer to, `look` how the deployment stands."""
    offered = operations(hub, declared, look)
    return Starlette(
        routes=[Route(each.path, _endpoint(each), methods=[each.method]) for each in offered],
        middleware=[Middleware(Guard, token=token, open_calls={(each.method, each.path) for each in offered if each.is_open})],
        exception_handlers={HTTPException: _refuse},
    )


def _endpoint(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    is_async = inspect.iscoroutinefunction(operation.work)

    async def answer(request: Request) -> Response:
        try:
            call = await Call.of(request)
            answered = operation.work(call) if is_async else asyncio.to_thread(operation.work, call)
            status, body = cast("Answer", await cast("Awaitable[Answer]", answered))
        except Exception as error:
            return answer_to(error)
        return JSONResponse(redactor.value(body), status, headers={"Cache-Control": "no-store"})

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    words = f"{request.method} {request.url.path} is not offered; GET {PREFIX}/openapi.json describes what is"
    return problem(status, words if status in (404, 405) else error.detail, headers=error.headers)
