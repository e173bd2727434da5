"""A runtime whose every attempt is written down in the test."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node

Step = AgentEvent | BaseException | str
HANG = object()


class ScriptedRuntime(Runtime[RuntimeConfig]):
    kind = "scripted"
    config_type = RuntimeConfig
    capabilities = Capabilities(cancels=True)

    def __init__(self, *attempts: Sequence[Step | object]) -> None:
        super().__init__(RuntimeConfig())
        self._attempts = list(attempts)
        self.seen: list[Invocation] = []
        self.stopped = 0
        self.started = threading.Event()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        self.seen.append(invocation)
        self.started.set()
        steps = self._attempts.pop(0) if len(self._attempts) > 1 else self._attempts[0]
        for step in steps:
            if step is HANG:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.stopped += 1
            elif isinstance(step, BaseException):
                raise step
            elif isinstance(step, str):
                yield Final(text=step)
            else:
                yield step  # pyright: ignore[reportReturnType]


def agent(*runtimes: Runtime[Any]) -> Agent:
    return Agent("worker", [Node(f"n{number}", runtime) for number, runtime in enumerate(runtimes, start=1)])
