"""Looking after batches, as the daemon does each second and the reconciler's sensor each half minute."""

import logging

from dagster import DagsterInstance

from agent_pipelines.components.batch.opened import add_partitions
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.execution.batch.keeper import BatchKeeper
from agent_pipelines.hub import Hub

_log = logging.getLogger("agent_pipelines.batches")


class BatchWatch:
    """Finds what has died of batches, and requests what is to follow."""

    def __init__(self, hub: Hub, instance: DagsterInstance) -> None:
        self._keeper = BatchKeeper(
            hub.database,
            hub.ledger,
            hub.batch_dispatcher,
            DagsterGateway(instance),
            lambda batch: add_partitions(instance, batch),
        )

    def keep(self) -> list[str]:
        """Look once; returns what was done, a line each."""
        return self._keeper.look()

    def look(self) -> int:
        """Look once and log what was done; returns how many lines."""
        done = self.keep()
        for line in done:
            _log.warning("%s", redactor.text(line))
        return len(done)
