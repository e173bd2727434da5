"""Stopping a batch, and having it go on."""

from agent_pipelines.core.errors import IllegalTransition
from agent_pipelines.core.execution import RunRef
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.ledger.batches import Batch
from agent_pipelines.store.database import Connection


class BatchControl:
    """Cancels and reopens batches. Both are done when they return, in one transaction each."""

    def __init__(self, nouns: BatchNouns) -> None:
        self._nouns = nouns

    async def cancel(self, batch_id: str, reason: str) -> Batch | None:
        """Cancel a batch with all that is not done of it; None if it has ended. Who works on it stops with its next write."""
        return await self._nouns.database.write(lambda connection: self._cancel(connection, batch_id, reason))

    async def reopen(self, batch_id: str, *, run: RunRef) -> Batch:
        """Have a failed or cancelled batch go on: items that failed, were cancelled or never began are done, the rest is kept.

        Its execution waits again, and belongs to `run`. A batch that was not split to its end has to be split by the caller.
        Raises IllegalTransition if it has neither failed nor been cancelled.
        """
        return await self._nouns.database.write(lambda connection: self._reopen(connection, batch_id, run))

    def _cancel(self, connection: Connection, batch_id: str, reason: str) -> Batch | None:
        batch = self._nouns.ledger.batches.cancel(connection, batch_id, reason)
        if batch is not None:
            self._nouns.ledger.executions.cancel_items(connection, batch_id, reason)
            self._nouns.ledger.executions.cancel(connection, batch.execution_id, reason)
        return batch

    def _reopen(self, connection: Connection, batch_id: str, run: RunRef) -> Batch:
        batches, executions = self._nouns.ledger.batches, self._nouns.ledger.executions
        batch = batches.get(connection, batch_id)
        if batch is None:
            raise IllegalTransition(f"there is no batch {batch_id}")
        batches.reopen(connection, batch_id)
        executions.reopen(connection, batch.execution_id, run)
        executions.wait(connection, batch.execution_id, run_id=run.run_id)
        reopened = batches.get(connection, batch_id)
        assert reopened is not None
        return reopened
