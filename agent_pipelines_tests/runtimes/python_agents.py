"""Functions that the tests use as agents."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Text, ToolCall, Usage, UsageReport
from agent_pipelines.core.invocation import Invocation

SPENT = UsageReport(usage=Usage(input_tokens=11, cached_input_tokens=3, output_tokens=7, reasoning_tokens=2, requests=1))


def echo(invocation: Invocation) -> str:
    return f"echo: {invocation.messages[-1].content}"


async def async_echo(invocation: Invocation) -> str:
    return echo(invocation)


def pieces(invocation: Invocation) -> Iterator[str]:
    yield "echo: "
    yield invocation.messages[-1].content


async def async_pieces(invocation: Invocation) -> AsyncIterator[str]:
    for piece in pieces(invocation):
        yield piece


def events(invocation: Invocation) -> Iterator[AgentEvent]:
    yield ToolCall(id="1", name="look", arguments={"at": "sky"})
    yield Text(text="echo: ")
    yield Text(text=invocation.messages[-1].content)
    yield SPENT
    yield Final(text=f"echo: {invocation.messages[-1].content}", model="me", session_id="s-1")


async def async_events(invocation: Invocation) -> AsyncIterator[AgentEvent]:
    for event in events(invocation):
        yield event


def data(invocation: Invocation) -> dict[str, Any]:
    return {"city": "Bern", "task": invocation.task, "numbers": [1, 2]}


async def async_data(invocation: Invocation) -> dict[str, Any]:
    return data(invocation)


def nothing(invocation: Invocation) -> None:
    pass


def opaque(invocation: Invocation) -> object:
    return threading.Lock()


def broken(invocation: Invocation) -> str:
    raise ValueError(f"cannot do {invocation.messages[-1].content} with {os.environ.get('PLANTED_KEY')}")


async def async_broken(invocation: Invocation) -> str:
    return broken(invocation)


def limited(invocation: Invocation) -> str:
    raise RuntimeFailure(ErrorClass.RATE_LIMIT, "slow down", retry_after=7.5, status=429, code="rate")


async def async_limited(invocation: Invocation) -> str:
    return limited(invocation)


def too_late(invocation: Invocation) -> Iterator[Any]:
    yield Final(text="done")
    yield "more"


def not_text(invocation: Invocation) -> Iterator[Any]:
    yield 3


def talkative(invocation: Invocation) -> str:
    print('{"kind": "text", "text": "not an event"}')  # noqa: T201
    os.write(1, b"raw output\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    return f"read {sys.stdin.read()!r}"


def crashes(invocation: Invocation) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def exits(invocation: Invocation) -> str:
    sys.exit("enough")


def leaves_a_thread(invocation: Invocation) -> str:
    threading.Thread(target=time.sleep, args=(1_000,)).start()
    return "done"


def modules(invocation: Invocation) -> list[str]:
    return sorted(sys.modules)


def hangs(invocation: Invocation) -> str:
    """Starts a grandchild and tells both ids in the file that the prompt names, then ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    told = Path(invocation.messages[-1].content)
    told.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    told.with_suffix(".new").rename(told)
    child.wait()
    return "never"


def tidies_up(invocation: Invocation) -> str:
    told = Path(invocation.messages[-1].content)
    try:
        told.with_suffix(".new").write_text(str(os.getpid()))
        told.with_suffix(".new").rename(told)
        time.sleep(1_000)
    finally:
        told.with_suffix(".tidied").touch()
    return "never"


class Agent:
    async def __call__(self, invocation: Invocation) -> str:
        return echo(invocation)

    def sync_method(self, invocation: Invocation) -> str:
        return echo(invocation)
