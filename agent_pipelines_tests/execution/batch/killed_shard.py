"""A process that works on a shard and kills itself: python -m ... URL DIRECTORY BATCH RUN_ID FILE AFTER"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.execution.batch.shard import ShardWorker
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.batching import Echo, agent, spec


class Noting(Echo):
    """Notes each item in a file when it has been done, and dies with one that is in the middle."""

    def __init__(self, file: Path, after: int) -> None:
        super().__init__()
        self._file = file
        self._after = after

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        with self._file.open("a") as notes:
            notes.write(f"{invocation.item}\n")
        self.asked.append(str(invocation.item))
        if len(self.asked) == self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.01)
        yield Final(text=invocation.messages[-1].content)


def main(url: str, directory: str, batch: str, run_id: str, file: str, after: str) -> None:
    nouns = replace(Hub(Database(url)).batch_nouns, directory=Path(directory))
    task = spec({"shard_size": 60})
    worker = ShardWorker(nouns, RunRef(run_id=run_id), task, agent(Noting(Path(file), int(after))))
    asyncio.run(worker.work(batch, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
