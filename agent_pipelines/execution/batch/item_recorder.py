"""Recording what an attempt of an item does, in the groups of its shard."""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent_pipelines.execution.batch.writer import GroupWriter
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.ledger.journal import Entry
from agent_pipelines.store.database import Connection


@dataclass
class ItemRecorder(Recorder):
    """As the recorder of any other attempt, but the last entries are left to be written with the end of the attempt."""

    writer: GroupWriter | None = None
    held: list[Entry] = field(default_factory=list[Entry])

    async def finish(self) -> None:
        """Hold what is still buffered."""
        self.held += self._drain()

    async def _append(self, entries: list[Entry], along: Callable[[Connection], None] | None = None) -> None:
        if self.final is not None:
            self.held += entries
        elif entries:
            assert self.writer is not None
            self.writer.group.entries.extend((self.execution_id, entry) for entry in entries)
            await self.writer.put()
