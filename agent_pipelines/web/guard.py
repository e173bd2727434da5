"""Nobody gets in without the token."""

import re
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_pipelines.web.problem import CHALLENGE, problem
from agent_pipelines.web.token import ApiToken

_PART = re.compile(r"\\\{\w+\\\}")  # of a path, when it has been escaped


class Guard:
    """Answers 401 to every request without the token, whatever it asks for; only those of `open_calls` need none.

    They are methods and paths, whose parts in braces may be anything.
    """

    def __init__(self, app: ASGIApp, token: ApiToken, open_calls: Collection[tuple[str, str]]) -> None:
        self._app = app
        self._token = token
        patterns = [_PART.sub("[^/]+", re.escape(f"{method} {path}")) for method, path in open_calls]
        self._open_calls = re.compile("|".join(patterns) or "(?!)")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "websocket":
                await send({"type": "websocket.close", "code": 1008})
            case "http" if not self._lets_in(scope):
                answer = problem(
                    HTTPStatus.UNAUTHORIZED,
                    "send the token of this deployment: `Authorization: Bearer TOKEN`",
                    headers={"WWW-Authenticate": CHALLENGE},
                )
                await answer(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        is_open = self._open_calls.fullmatch(f"{method} {path}") is not None
        return is_open or self._token.is_in(Headers(scope=scope).get("authorization"))
