"""A server that works for a while on each request and counts how many it works on; and a process that asks it under limits."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.limit import PriorityClass
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.flow.limits import Limits
from agent_pipelines.flow.permits import Permits
from agent_pipelines.store.database import Database


class Server:
    """Counts requests by who asks."""

    def __init__(self) -> None:
        self.port = 0
        self.live: dict[str, int] = defaultdict(int)
        self.most: dict[str, int] = defaultdict(int)
        self.most_of_all = 0
        self.arrivals: list[tuple[int, str]] = []
        """When each request was granted, in microseconds, and by whom it came."""
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def until(self, arrivals: int) -> None:
        """Wait for so many requests in all."""
        while len(self.arrivals) < arrivals:
            self.changed.clear()
            await self.changed.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                who, seconds, granted_at = json.loads(line)
                self.live[who] += 1
                self.most[who] = max(self.most[who], self.live[who])
                self.most_of_all = max(self.most_of_all, sum(self.live.values()))
                self.arrivals.append((granted_at, who))
                self.changed.set()
                await asyncio.sleep(seconds)
                self.live[who] -= 1
                writer.write(b"done\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def most_in_any_window(instants: list[int], length: int) -> int:
    """The highest number of instants that lie within a length of time."""
    ordered, first, most = sorted(instants), 0, 0
    for last, instant in enumerate(ordered):
        while instant - ordered[first] >= length:
            first += 1
        most = max(most, last - first + 1)
    return most


def flow_over(database: Database, *, lease: float = 10.0) -> FlowControl:
    """Flow control as a process of its own would have it."""
    clock = SystemClock()
    limits = Limits(clock)
    return FlowControl(database, clock, limits, Permits(clock, limits), lease=lease)


async def ask(
    flow: FlowControl, port: int, who: str, seconds: float, scopes: list[str], priority_class: PriorityClass, application: str
) -> None:
    """One request."""
    permit = await flow.acquire(scopes, application=application, priority_class=priority_class)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await flow.confirm(permit)
        writer.write(json.dumps([who, seconds, permit.granted_at]).encode() + b"\n")
        await reader.readline()
        writer.close()
    finally:
        permit.release()


async def _work(url: str, port: int, who: str, seconds: float, count: int, options: dict[str, Any]) -> None:
    flow = flow_over(Database(url), lease=options.get("lease", 10.0))
    scopes, priority_class = options["scopes"], options.get("priority_class", "normal")
    application = options.get("application", who)
    await asyncio.gather(*(ask(flow, port, who, seconds, scopes, priority_class, application) for _ in range(count)))
    await flow.close()


async def start(server: Server, url: str, who: str, seconds: float, count: int, **options: Any) -> asyncio.subprocess.Process:
    """A process that makes requests: `scopes`, `application`, `priority_class`, `lease`."""
    given = (url, str(server.port), who, str(seconds), str(count), json.dumps(options))
    return await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, *given)


if __name__ == "__main__":
    _, address, number, name, length, times, further = sys.argv
    asyncio.run(_work(address, int(number), name, float(length), int(times), json.loads(further)))
