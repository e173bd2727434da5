"""A server on loopback that answers by script, in the words of OpenAI or of those that a path stands for.

The last user message selects the script; a message that none is written for is answered with `echo: <message>`.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@dataclass
class Script:
    """What the server sends: a status, headers, and parts of a body, each text, bytes or JSON."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    parts: list[Any] = field(default_factory=list)
    end: str = "whole"  # or "cut": the connection closes in the middle; "hold": nothing more until the client leaves


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "scripted-1", "choices": choices} | more


def frames(*data: Any, done: bool = True, **settings: Any) -> Script:
    parts = ["data: " + (item if isinstance(item, str) else json.dumps(item)) + "\n\n" for item in data]
    return Script(content_type="text/event-stream", parts=[*parts, *(["data: [DONE]\n\n"] if done else [])], **settings)


def whole(message: dict[str, Any], finish_reason: str | None = "stop", **more: Any) -> Script:
    choices = [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish_reason}]
    return Script(parts=[{"id": "chatcmpl-1", "model": "scripted-1", "choices": choices, "usage": USAGE} | more])


def spoken(text: str, stream: bool) -> Script:
    if not stream:
        return whole({"content": text})
    third = max(len(text) // 3, 1)
    pieces = [text[:third], text[third : 2 * third], text[2 * third :]]
    deltas = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": piece}) for piece in pieces)]
    return frames(*deltas, chunk({}, "stop"), chunk(usage=USAGE))


Dialect = Callable[[str, bool], Script]
"""The script that says a text, whole or as a stream."""

DIALECTS: dict[str, Dialect] = {"/chat/completions": spoken}
"""How an echo is said, by the end of the path that is asked."""


class ScriptedServer:
    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.forget()

    def forget(self) -> None:
        """Start anew: no scripts, nothing seen."""
        self.scripts: dict[str, Script] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived = threading.Semaphore(0)
        self.left = threading.Semaphore(0)  # clients that went away during a "hold"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        headers["port"] = str(scope["client"][1])  # of the client: one for each connection
        self.requests.append(request)
        self.headers.append(headers)
        self.arrived.release()

        said = next((m["content"] for m in reversed(request["messages"]) if m["role"] == "user"), "")
        dialect = next(dialect for path, dialect in DIALECTS.items() if scope["path"].endswith(path))
        script = self.scripts.get(said) or dialect(f"echo: {said}", request.get("stream", False))
        sent = {"content-type": script.content_type} | script.headers
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": script.status, "headers": pairs})
        for part in script.parts:
            raw = part if isinstance(part, bytes) else part if isinstance(part, str) else json.dumps(part)
            if isinstance(raw, str):
                raw = raw.replace("$AUTHORIZATION", headers.get("authorization") or headers.get("x-api-key", "")).encode()
            await send({"type": "http.response.body", "body": raw, "more_body": True})
        if script.end == "whole":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if script.end == "hold":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.release()


@contextmanager
def running() -> Iterator[ScriptedServer]:
    """Serve in a thread until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        scripted = ScriptedServer(listener.getsockname()[1])
        config = uvicorn.Config(scripted, lifespan="off", log_config=None, loop="asyncio", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield scripted
        finally:
            server.should_exit = True
            thread.join()
