"""An agent for benchmarks: an OpenAI-compatible endpoint on loopback that notes when each request arrives."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

PROMPT = "{{ task }} {{ due_at }}"
"""Prompt of every task that asks this agent; by it a request says which tick it belongs to."""


@dataclass
class Arrivals:
    """When requests arrived, in seconds since 1970, by the task and the due instant that they name."""

    of: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict[tuple[str, str], list[float]](list))

    @property
    def doubled(self) -> int:
        """Ticks that more than one request arrived for."""
        return sum(len(times) > 1 for times in self.of.values())


class Agent:
    """Answers each request after a while, in a thread of its own. Use as a context manager."""

    def __init__(self, seconds: float) -> None:
        self.arrivals = Arrivals()
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agent", daemon=True)
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL of the endpoint."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> "Agent":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_024), self._loop)
        self._port = server.result().sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _hang_up(self) -> None:
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                arrived = time.time()
                (length,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                task, due_at = body["messages"][-1]["content"].split()
                self.arrivals.of[task, due_at].append(arrived)
                await asyncio.sleep(self._seconds)
                answer = json.dumps(_answer(body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer))
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "done"}
    return {
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1},
    }
