"""Nobody gets in without the token."""

import re
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_pipelines.web.problem import problem
from agent_pipelines.web.token import ApiToken


class Guard:
    """Answers 401 to every request without the token, whatever it asks for; only `open_paths` need none, whose parts in
    braces may be anything."""

    def __init__(self, app: ASGIApp, token: ApiToken, open_paths: Collection[str]) -> None:
        self._app = app
        self._token = token
        patterns = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in open_paths]
        self._open_paths = re.compile("|".join(patterns) or r"(?!)")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "websocket":
                await send({"type": "websocket.close", "code": 1008})
            case "http" if not self._lets_in(scope):
                answer = problem(
                    HTTPStatus.UNAUTHORIZED,
                    "send the token of this deployment: `Authorization: Bearer TOKEN`",
                    headers={"WWW-Authenticate": 'Bearer realm="agent-pipelines"'},
                )
                await answer(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return self._open_paths.fullmatch(path) is not None or self._token.is_in(Headers(scope=scope).get("authorization"))
