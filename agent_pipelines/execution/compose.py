"""The second stage: what the agent is given."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.context.composer import Composed, Composer
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.errors import ExecutionFailed
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.work import Failure, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Connection, Database


@dataclass(frozen=True)
class Composing:
    """Fills the invocation and records it."""

    database: Database
    clock: Clock
    ledger: Ledger
    composer: Composer

    async def compose(self, work: Work) -> Failure | None:
        """Fill the work's invocation; returns why that cannot be done, if it cannot."""
        started_at = self.clock.now()
        try:
            composed = await self.database.write(lambda connection: self._compose(connection, work))
        except ExecutionFailed as failure:
            return Failure(failure.error_class, failure.stage, failure.message)
        work.invocation = composed.invocation
        trimmed: list[JsonValue] = list(composed.trimmed)
        work.trace.add("compose", started_at, self.clock.now(), attributes={"agent_pipelines.trimmed": trimmed})
        return None

    def _compose(self, connection: Connection, work: Work) -> Composed:
        composed = self.composer.compose(
            connection,
            work.invocation,
            work.spec,
            agent=work.agent.name,
            keeps_sessions=work.agent.capabilities.keeps_sessions,
            execution_id=work.stored.id,
            upstream=self._upstream(connection, work.spec),
        )
        self.ledger.executions.compose(connection, work.stored.id, composed.invocation, trimmed=composed.trimmed)
        if work.stored.resumptions:
            work.journal_seq = self.ledger.journal.last_seq(connection, work.stored.id)
        return composed

    def _upstream(self, connection: Connection, spec: TaskSpec) -> Mapping[str, JsonValue]:
        outputs: dict[str, JsonValue] = {}
        for path in spec.dependency_paths:
            application, _, task = path.partition("/")
            latest = self.ledger.executions.latest_success(connection, (spec.workspace, application, task))
            if latest is not None:
                outputs[path] = latest.text if latest.output is None else latest.output
        return outputs
