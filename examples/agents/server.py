"""The agents behind the chat completions of the OpenAI protocol.

POST /v1/chat/completions (JSON, or server-sent events with `stream`), GET /v1/models, GET /health. The `model` of a
request names the agent; which tools it used comes back as `reasoning_content`. No key is asked for.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from examples.agents.agent import Agent
from examples.agents.answer import Answer, Message, Mind
from examples.agents.facts import BadFactsError
from examples.agents.model import ModelError
from examples.agents.toolbox import Toolbox, ToolError, ToolUnavailableError

PIECE = 256
"""Characters of an answer that one event of a stream carries."""


class ChatRequest(BaseModel):
    """The part of a request that is read; other fields are settings for a model."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: dict[str, Any] | None = None


class Work:
    """One request in a thread of its own; `events` brings what it thinks, then its answer or what went wrong."""

    def __init__(self, agent: Agent[Any], mind: Mind, request: ChatRequest) -> None:
        self.events: asyncio.Queue[str | Answer | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._agent, self._mind, self._request = agent, mind, request
        self._tools = Toolbox(agent.tools(), tell=self._put)
        threading.Thread(target=self._run, name=agent.name, daemon=True).start()

    def cancel(self) -> None:
        """Let no further tool run."""
        self._tools.cancelled.set()

    def _run(self) -> None:
        try:
            options = self._request.model_extra or {}
            self._put(self._mind.answer(self._agent, self._request.messages, self._tools, options))
        except Exception as error:
            self._put(error)

    def _put(self, event: str | Answer | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            self.cancel()  # the server has stopped


def create_app(agents: Mapping[str, Agent[Any]], mind: Mind, on_start: Callable[[], None] | None = None) -> Starlette:
    """The application that serves these agents by name."""

    async def chat(request: Request) -> Response:
        try:
            asked = ChatRequest.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return _error(400, f"{where}: {first['msg']}", "invalid_request_error", param=where)
        agent = agents.get(asked.model)
        if agent is None:
            known = ", ".join(sorted(agents))
            text = f"The model `{asked.model}` does not exist; there are: {known}"
            return _error(404, text, "invalid_request_error", "model_not_found", param="model")
        work = Work(agent, mind, asked)
        if not asked.stream:
            return await _whole(work)
        # The first event decides the status; after it an error can only be told in the stream.
        first = await work.events.get()
        if isinstance(first, Exception):
            return _failure(first)
        with_usage = bool((asked.stream_options or {}).get("include_usage"))
        return StreamingResponse(_pieces(work, first, agent.name, with_usage), media_type="text/event-stream")

    async def models(_: Request) -> Response:
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "examples"} for name in sorted(agents)]
        return JSONResponse({"object": "list", "data": rows})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "agents": sorted(agents), "mind": type(mind).__name__.lower()})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if on_start is not None:
            on_start()
        yield

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        lifespan=lifespan,
    )


async def _whole(work: Work) -> Response:
    reasoning = ""
    try:
        while isinstance(event := await work.events.get(), str):
            reasoning += event
    except asyncio.CancelledError:
        work.cancel()
        raise
    if isinstance(event, Exception):
        return _failure(event)
    message = {"role": "assistant", "content": event.text, "reasoning_content": reasoning}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({**_head("chat.completion", event.model), "choices": [choice], "usage": event.usage.wire()})


async def _pieces(work: Work, first: str | Answer, name: str, with_usage: bool) -> AsyncIterator[str]:
    head = _head("chat.completion.chunk", name)

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        return _frame({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        event: str | Answer | Exception = first
        while isinstance(event, str):
            yield chunk({"reasoning_content": event})
            event = await work.events.get()
        if isinstance(event, Exception):
            yield _frame(json.loads(bytes(_failure(event).body)))
            return
        head["model"] = event.model
        for start in range(0, len(event.text), PIECE):
            yield chunk({"content": event.text[start : start + PIECE]})
        yield chunk({}, "stop")
        if with_usage:
            yield _frame({**head, "choices": [], "usage": event.usage.wire()})
        yield "data: [DONE]\n\n"
    finally:
        # Whoever closes the stream early wants the work to end.
        work.cancel()


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _frame(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _failure(error: Exception) -> JSONResponse:
    if isinstance(error, BadFactsError):
        return _error(400, str(error), "invalid_request_error", "bad_facts", param="messages")
    if isinstance(error, ToolUnavailableError):
        return _error(503, str(error), "server_error", "tool_unavailable")
    if isinstance(error, ToolError):
        return _error(400, str(error), "invalid_request_error", "tool_refused")
    if isinstance(error, ModelError):
        headers = {"retry-after": error.retry_after} if error.retry_after else {}
        return _error(error.status, str(error), "server_error", "model_failed", headers=headers)
    return _error(500, f"the agent broke: {type(error).__name__}: {error}", "server_error", "agent_broke")


def _error(
    status: int,
    message: str,
    kind: str,
    code: str | None = None,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status, headers)
