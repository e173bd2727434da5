"""A process that works as a burst and kills itself: python -m ... URL RUN_ID BOUNDARY FILE"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from agent_pipelines.core.event import AgentEvent
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.execution.intake import Intake
from agent_pipelines.execution.runner import Runner
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.bursting import SETTINGS, Counting, worker

AFTER = 7  # executions after which the process dies


class Noting(Counting):
    """Appends the name of each task to a file before it answers."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        with self.file.open("a") as notes:
            notes.write(f"{invocation.task}\n")
        async for event in super().stream(invocation):
            yield event


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(boundary: str) -> None:
    """Have the process die between two of its steps."""
    carry, take, counted = Runner._carry, Intake.take, [0]

    async def dying_take(self: Intake, until: int, limit: int, **more: Any) -> Any:
        taken = await take(self, until, limit, **more)
        counted[0] += 1
        return die() if counted[0] == 2 else taken

    async def dying_carry(self: Runner, work: Any, failure: Any) -> Any:
        counted[0] += 1
        return die() if counted[0] == AFTER else await carry(self, work, failure)

    match boundary:
        case "take":
            Intake.take = dying_take  # type: ignore[method-assign]
        case "admit":
            Runner._carry = dying_carry  # type: ignore[method-assign]
        case _:
            close = Counting.stream

            async def dying_stream(self: Counting, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
                async for event in close(self, invocation):
                    counted[0] += 1
                    if counted[0] == AFTER:
                        die()
                    yield event

            Counting.stream = dying_stream  # type: ignore[method-assign]


def main(url: str, run_id: str, boundary: str, file: str) -> None:
    die_at(boundary)
    settings = SETTINGS.model_copy(update={"in_flight": 5})
    asyncio.run(worker(Hub(Database(url)), Noting(Path(file)), settings=settings, run_id=run_id).work())


if __name__ == "__main__":
    main(*sys.argv[1:])
