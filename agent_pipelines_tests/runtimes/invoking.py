"""Asking a runtime in a test."""

import asyncio
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from agent_pipelines.core.errors import RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Text
from agent_pipelines.core.invocation import Invocation, Message, Origin
from agent_pipelines.runtimes.base import Runtime

EventT = TypeVar("EventT")


def invocation(prompt: str = "hello", **fields: Any) -> Invocation:
    plain: dict[str, Any] = {
        "task": "digest",
        "spec_hash": "0" * 64,
        "trigger": "nightly",
        "origin": Origin.SCHEDULE,
        "occurrence": "1767225600000000",
        "due_at": 1_767_225_600_000_000,
        "logical_at": 1_767_225_600_000_000,
        "messages": (Message(role="user", content=prompt),),
    }
    return Invocation(**plain | fields)


async def collect(runtime: Runtime[Any], request: Invocation) -> list[AgentEvent]:
    async with aclosing(runtime.stream(request)) as events:
        return [event async for event in events]


def run(runtime: Runtime[Any], request: Invocation | str = "hello") -> list[AgentEvent]:
    """The events of one invocation, in an event loop of its own."""

    async def main() -> list[AgentEvent]:
        try:
            return await collect(runtime, invocation(request) if isinstance(request, str) else request)
        finally:
            await runtime.close()

    return asyncio.run(main())


def failure(runtime: Runtime[Any], request: Invocation | str = "hello") -> RuntimeFailure:
    with pytest.raises(RuntimeFailure) as caught:
        run(runtime, request)
    return caught.value


def of_type(events: list[AgentEvent], kind: type[EventT]) -> list[EventT]:
    return [event for event in events if isinstance(event, kind)]


def final(events: list[AgentEvent]) -> Final:
    """The Final, after checking that it is the only one, comes last and is what the pieces say."""
    (last,) = of_type(events, Final)
    assert events[-1] is last
    assert "".join(text.text for text in of_type(events, Text)) == last.text
    return last
