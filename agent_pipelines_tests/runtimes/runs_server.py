"""An agent with an interface of its own on loopback: runs are begun, asked about one by one or together, and cancelled."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

USAGE = {"in": 11, "cached": 3, "out": 7, "thought": 2}


class RunsServer:
    """Runs go on until `finished` is set or they are cancelled; `calls` counts the requests by what they ask for."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.calls: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.runs: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.finished = False
        self.status = 200
        self.retry_after: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        status, answer = self._answer(scope["method"], scope["path"], json.loads(raw) if raw else None)
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", self.retry_after.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match (method, path.strip("/").split("/")):
            case ("POST", ["runs"]):
                self.calls["start"] += 1
                handle = f"run-{len(self.runs) + 1}"
                self.runs[handle] = body["input"]
                return 202, self._run(handle)
            case ("POST", ["runs", "query"]):
                self.calls["many"] += 1
                return self.status, {"runs": [self._run(handle) for handle in body["ids"] if handle in self.runs]}
            case ("GET", ["runs", handle]):
                self.calls["one"] += 1
                return (self.status, self._run(handle)) if handle in self.runs else (404, {"error": "no such run"})
            case ("POST", ["runs", handle, "cancel"]):
                self.calls["cancel"] += 1
                self.cancelled.append(handle)
                return 200, {}
            case _:
                return 404, {"error": "no such path"}

    def _run(self, handle: str) -> dict[str, Any]:
        told = self.runs[handle]
        if handle in self.cancelled:
            return {"id": handle, "state": "cancelled"}
        if not self.finished:
            return {"id": handle, "state": "running"}
        if told == "fail":
            return {"id": handle, "state": "failed", "why": "it broke"}
        return {"id": handle, "state": "done", "answer": {"text": f"echo: {told}"}, "usage": USAGE, "model": "m-1"}


def settings(server: RunsServer, *, many: bool = False, **more: Any) -> dict[str, Any]:
    """The interface, as an agent of kind `http` declares it."""
    poll: dict[str, Any] = {"poll": {"method": "GET", "path": "/runs/{handle}"}}
    if many:
        poll = {"poll_many": {"path": "/runs/query", "body": {"ids": "{handles}"}, "items": "runs", "handle": "id"}}
    return {
        "base_url": server.base_url,
        "start": {"path": "/runs", "body": {"input": "{prompt}", "for": "task {task}", "schema": "{output_schema}"}},
        "handle": "id",
        "status": "state",
        "running": ["running"],
        "succeeded": ["done"],
        "failed": {"failed": "agent", "cancelled": "cancelled"},
        "result": {
            "text": "answer.text",
            "message": "why",
            "model": "model",
            "input_tokens": "usage.in",
            "output_tokens": "usage.out",
        },
        "cancel": {"path": "/runs/{handle}/cancel"},
        "poll_after": "1s",
        "idempotency_header": "Idempotency-Key",
        **poll,
        **more,
    }


@contextmanager
def running() -> Iterator[RunsServer]:
    """Serve in a thread until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        served = RunsServer(listener.getsockname()[1])
        server = uvicorn.Server(
            uvicorn.Config(served, lifespan="off", log_config=None, loop="asyncio", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.should_exit = True
            thread.join()
