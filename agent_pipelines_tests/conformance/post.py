"""A mailbox whose node is in the same process."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from agent_pipelines.core.errors import RuntimeFailure
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Runtime
from agent_pipelines.runtimes.node import Reply, written_failure


@dataclass
class _Letter:
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    events: list[dict[str, JsonValue]] = field(default_factory=list[dict[str, JsonValue]])
    failure: dict[str, JsonValue] | None = None
    has_ended: bool = False
    work: asyncio.Task[None] | None = None


class Post:
    """Does each order on a runtime of its own, as a node would."""

    def __init__(self, runtime: Runtime[Any]) -> None:
        self.stopped = 0
        self._runtime = runtime
        self._letters: dict[str, _Letter] = {}

    async def send(self, agent: str, node: str, invocation: Invocation, lease: float) -> str:
        letter = self._letters[order_id := new_id()] = _Letter()
        letter.work = asyncio.create_task(self._do(letter, invocation))
        return order_id

    async def read(self, order_id: str, after: int) -> Reply:
        letter = self._letters[order_id]
        while len(letter.events) == after and not letter.has_ended:
            letter.changed.clear()
            await letter.changed.wait()
        return Reply("finished" if letter.has_ended else "claimed", letter.events[after:], letter.failure)

    async def close(self, order_id: str) -> None:
        letter = self._letters.pop(order_id)
        assert letter.work is not None
        letter.work.cancel()
        await asyncio.gather(letter.work, return_exceptions=True)

    async def _do(self, letter: _Letter, invocation: Invocation) -> None:
        try:
            async with aclosing(self._runtime.stream(invocation)) as stream:
                async for event in stream:
                    letter.events.append(event.model_dump(mode="json"))
                    letter.changed.set()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        except RuntimeFailure as failure:
            letter.failure = written_failure(failure)
        letter.has_ended = True
        letter.changed.set()
