"""A process that kills itself on the way of a wait: python -m ... URL BOUNDARY FILE"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_pipelines.core.event import AgentEvent, Final, Handle
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.execution.continuations import Continuations
from agent_pipelines.execution.poller import Poller
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.waits import Waits
from agent_pipelines.runtimes.base import Capabilities, Finished, Progress, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.conftest import invocation, spec

TASK = spec(timeout={"attempt": "5m", "total": "2d"})
OCCURRENCE = "the-only-one"
LEASE = 1.0  # seconds


class Noting(Runtime[RuntimeConfig]):
    """Appends to a file when it is asked to begin; that work is finished whenever it is asked after."""

    kind = "noting"
    config_type = RuntimeConfig
    capabilities = Capabilities(hands_over=True)

    def __init__(self, file: Path, boundary: str = "") -> None:
        super().__init__(RuntimeConfig())
        self.file = file
        self.boundary = boundary

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        with self.file.open("a") as notes:
            notes.write("begun\n")
        self._reach("begun")
        yield Handle(id="work-1", poll_after=0.01)
        self._reach("handle")

    async def poll(self, handles: Sequence[str]) -> Mapping[str, Progress]:
        self._reach("poll")
        return {handle: Finished([Final(text="the result")]) for handle in handles}

    def _reach(self, boundary: str) -> None:
        if boundary == self.boundary:
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def agent(file: Path, boundary: str = "") -> Agent:
    return Agent("worker", [Node("main", Noting(file, boundary))])


def asked() -> Invocation:
    return invocation(occurrence=OCCURRENCE)


def poller(hub: Hub, file: Path, boundary: str = "") -> Poller:
    makers = {"worker": lambda: agent(file, boundary)}
    return Poller(hub.database, hub.clock, hub.ledger, hub.continuations, makers, lease=LEASE)


def die_at(boundary: str) -> None:
    """Have the process die between two of its steps that are not the runtime's."""

    def dying(*given: Any, **named: Any) -> Any:
        return die()

    match boundary:
        case "arrive":
            Waits.arrive = dying  # type: ignore[method-assign]
        case "continue":
            Continuations.request = dying  # type: ignore[method-assign]
        case _:
            pass


if __name__ == "__main__":
    url, boundary, file = sys.argv[1:]
    die_at(boundary)
    hub = Hub(Database(url))
    hub.runner.execute(asked(), TASK, agent(Path(file), boundary), run=RunRef(run_id="first"))
    asyncio.run(poller(hub, Path(file), boundary).run())
