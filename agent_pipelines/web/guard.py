"""Nobody gets in without the token."""

from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_pipelines.web.problem import problem
from agent_pipelines.web.token import ApiToken


class Guard:
    """Answers 401 to every request without the token, whatever it asks for; only `open_paths` need none."""

    def __init__(self, app: ASGIApp, token: ApiToken, open_paths: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        is_let_in = path in self._open_paths or self._token.is_in(Headers(scope=scope).get("authorization"))
        if scope["type"] == "http" and not is_let_in:
            answer = problem(
                HTTPStatus.UNAUTHORIZED,
                "send the token of this deployment: `Authorization: Bearer TOKEN`",
                headers={"WWW-Authenticate": 'Bearer realm="agent-pipelines"'},
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)
