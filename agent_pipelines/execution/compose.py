"""The second stage: what the agent is given."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.context.composer import Composed, Composer
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.errors import ExecutionFailed
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.work import Failure, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection, Database


@dataclass(frozen=True)
class Composing:
    """Fills the invocation, and records it together with the beginning of the first attempt."""

    database: Database
    clock: Clock
    ledger: Ledger
    composer: Composer
    ticks: Ticks

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
        upstream = upstream_of(connection, self.ledger, self.ticks, work.invocation, work.spec)
        invocation = work.invocation.model_copy(
            update={"upstream_executions": {path: each.id for path, each in upstream.items()}}
        )
        composed = self.composer.compose(
            connection,
            invocation,
            work.spec,
            agent=work.place.agent.name,
            keeps_sessions=work.place.agent.capabilities.keeps_sessions,
            execution_id=work.stored.id,
            upstream={path: each.text if each.output is None else each.output for path, each in upstream.items()},
        )
        self.ledger.executions.begin(
            connection,
            work.stored.id,
            composed.invocation,
            trimmed=composed.trimmed,
            number=work.attempt,
            run_id=work.run.run_id,
            agent=work.place.agent.name,
            node=work.place.node.name,
            begins_at=work.begins_at,
        )
        if work.stored.resumptions:
            work.journal_seq = self.ledger.journal.last_seq(connection, work.stored.id)
        return composed


def upstream_of(
    connection: Connection, ledger: Ledger, ticks: Ticks, asked: Invocation, spec: TaskSpec
) -> Mapping[str, StoredExecution]:
    """The execution that each dependency's result is taken from: the one that the tick follows, else the newest success.

    A dependency that failed for the tick that is followed has no result, however good an older one is.
    """
    if not spec.dependency_paths:
        return {}
    followed = _followed(connection, ledger, ticks, asked)
    found: dict[str, StoredExecution] = {}
    for path in spec.dependency_paths:
        application, _, task = path.partition("/")
        key = (spec.workspace, application, task)
        if followed is not None and followed.task_key == key:
            execution = followed if followed.status is Status.SUCCEEDED else None
        else:
            execution = ledger.executions.latest_success(connection, key)
        if execution is not None:
            found[path] = execution
    return found


def _followed(connection: Connection, ledger: Ledger, ticks: Ticks, asked: Invocation) -> StoredExecution | None:
    tick = ticks.find(connection, asked.task_key, asked.trigger, asked.occurrence)
    followed = None if tick is None else tick.inputs.get("upstream_execution")
    return ledger.executions.get(connection, followed) if isinstance(followed, str) else None
