"""One operation of the HTTP interface."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from agent_pipelines.web.asked import Query
from agent_pipelines.web.call import Call

Answer = tuple[HTTPStatus, Mapping[str, Any]]


@dataclass(frozen=True)
class Operation:
    """What answers a method of a path; `work` may wait for the database, so it never runs on the event loop, unless it is a
    coroutine function, which waits for something that may take long.

    `takes_many` says that the body may also be a list of these models. Only an operation that `is_open` needs no token.
    """

    method: str
    path: str
    summary: str
    work: Callable[[Call], Answer] | Callable[[Call], Awaitable[Answer]]
    query: type[BaseModel] = Query
    body: type[BaseModel] | None = None
    takes_many: bool = False
    is_open: bool = False
