"""The world outside: it performs effects, counts them, and answers badly.

    python -m agent_pipelines_tests.chaos.world SEED FAULTS

Prints its port as first line and serves until its standard input ends. FAULTS is the share of requests that suffer one. What it
did is told under `/record`, and is the truth that a storm is judged by. It is never killed itself.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from aiohttp import web

FAULTS = ("lost request", "lost answer", "slow answer", "half-open")
"""What may happen to a request: the second, third and fourth are performed all the same."""

_SLOW = 0.3  # seconds
_HALF_OPEN = 5.0  # seconds; longer than who calls is patient


@dataclass
class Record:
    """What the world has seen. Instants are UTC microseconds."""

    performed: Counter[str] = field(default_factory=Counter[str])
    """How often each effect happened."""
    calls: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """When each step of an agent was asked for, by its name."""
    faults: Counter[str] = field(default_factory=Counter[str])
    in_flight: int = 0
    most_in_flight: int = 0


class World:
    """Receivers of three kinds below `/effects`: `keyed` acts once on a repeated key, `probed` can be asked whether it has acted,
    `blind` is neither. `/steps` are calls without an effect.
    """

    def __init__(self, seed: int, faults: float) -> None:
        self._random = random.Random(seed)
        self._share = faults
        self.record = Record()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/effects/{kind}/{key}", self._perform)
        app.router.add_get("/effects/{kind}/{key}", self._probe)
        app.router.add_post("/steps/{name}", self._step)
        app.router.add_post("/calm", self._calm)
        app.router.add_get("/record", self._tell)
        return app

    async def _perform(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]

        def act() -> None:
            if request.match_info["kind"] != "keyed" or not self.record.performed[key]:
                self.record.performed[key] += 1

        return await self._answer(request, act, {"ticket": key})

    async def _probe(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        return await self._answer(request, lambda: None, {"ticket": key} if self.record.performed[key] else None)

    async def _step(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        calls = self.record.calls.setdefault(name, [])
        return await self._answer(request, lambda: calls.append(time.time_ns() // 1_000), {"step": name})

    async def _answer(self, request: web.Request, act: Any, body: Any) -> web.StreamResponse:
        with self._counted():
            fault = self._random.choice(FAULTS) if self._random.random() < self._share else None
            if fault is not None:
                self.record.faults[fault] += 1
            if fault != "lost request":
                act()
            if fault in ("lost request", "lost answer"):
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if fault is not None:
                await asyncio.sleep(_SLOW if fault == "slow answer" else _HALF_OPEN)
            return web.json_response(body)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.record.in_flight += 1
        self.record.most_in_flight = max(self.record.most_in_flight, self.record.in_flight)
        try:
            yield
        finally:
            self.record.in_flight -= 1

    async def _calm(self, request: web.Request) -> web.Response:
        self._share = 0.0
        return web.Response()

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response(vars(self.record))


@contextmanager
def world(seed: int, faults: float) -> Iterator[str]:
    """A world in a process of its own; gives its URL."""
    command = [sys.executable, "-m", __name__, str(seed), str(faults)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait()


def record_of(url: str) -> Record:
    """What a world has seen so far."""
    with urlopen(f"{url}/record") as answer:
        told = json.load(answer)
    return Record(**{**told, "performed": Counter(told["performed"]), "faults": Counter(told["faults"])})


def calm(url: str) -> None:
    """Have the world answer well from now on."""
    with urlopen(Request(f"{url}/calm", method="POST")):
        pass


async def _serve(seed: int, faults: float) -> None:
    runner = web.AppRunner(World(seed, faults).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
