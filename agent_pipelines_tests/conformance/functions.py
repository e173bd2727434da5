"""The Python agents of the suite."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Usage, UsageReport
from agent_pipelines.core.invocation import Invocation

SPENT = Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, reasoning_tokens=2)


def echo(invocation: Invocation) -> Iterator[AgentEvent | str]:
    yield "echo: "
    yield UsageReport(usage=SPENT)
    yield invocation.messages[-1].content


async def async_echo(invocation: Invocation) -> AsyncIterator[AgentEvent | str]:
    for item in echo(invocation):
        await asyncio.sleep(0)
        yield item


def total(invocation: Invocation) -> dict[str, Any]:
    return {"total": 3}


async def async_total(invocation: Invocation) -> dict[str, Any]:
    return {"total": 3}


def fail(invocation: Invocation) -> str:
    raise ValueError(f"the key is {os.environ['SUITE_KEY']}")


async def async_fail(invocation: Invocation) -> str:
    return fail(invocation)


def overloaded(invocation: Invocation) -> str:
    raise RuntimeFailure(ErrorClass.OVERLOADED, "busy")


async def async_overloaded(invocation: Invocation) -> str:
    return overloaded(invocation)


def hang(invocation: Invocation) -> Iterator[str]:
    yield str(os.getpid())
    time.sleep(1_000)


async def async_hang(invocation: Invocation) -> AsyncIterator[str]:
    try:
        yield "up"
        await asyncio.Event().wait()
    finally:
        _tell(Path(invocation.messages[-1].content))


def _tell(path: Path) -> None:
    path.touch()
