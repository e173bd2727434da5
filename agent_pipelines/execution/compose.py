"""The second stage: what the agent is given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from agent_pipelines.context.composer import Composed, Composer
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.errors import ExecutionFailed
from agent_pipelines.core.event import Checkpoint
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.cache_key import cache_key
from agent_pipelines.execution.work import Failure, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection, Database


@dataclass(frozen=True)
class Composing:
    """Fills the invocation, and records it together with the beginning of the first attempt.

    If the result of an identical call is kept, no attempt begins, and `work.cached_from` is the execution that has it.
    """

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
            # The conversation is that of the task's agent; a fallback that knows nothing of it is given its history.
            agent=work.spec.agent if work.fallbacks else work.place.agent.name,
            keeps_sessions=not work.fallbacks and work.place.agent.capabilities.keeps_sessions,
            execution_id=work.stored.id,
            upstream={path: each.text if each.output is None else each.output for path, each in upstream.items()},
        )
        if work.parameters:
            given = {**composed.invocation.parameters, **work.parameters}
            composed = replace(composed, invocation=composed.invocation.model_copy(update={"parameters": given}))
        if work.spec.cache is not None and not work.fallbacks:
            work.cache_key = cache_key(composed.invocation, work.spec, work.spec.cache, work.agent)
            work.cached_from = self.ledger.results.take(connection, work.cache_key)
            if work.cached_from is not None:
                self.ledger.executions.prepare(
                    connection,
                    work.stored.id,
                    composed.invocation,
                    trimmed=composed.trimmed,
                    agent=work.place.agent.name,
                )
                return composed
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
        if not work.stored.resumptions:
            return composed
        work.journal_seq = self.ledger.journal.last_seq(connection, work.stored.id)
        if work.fallbacks:
            return composed
        left = self.ledger.journal.newest(connection, work.stored.id, Checkpoint.model_fields["kind"].default)
        checkpoint = None if left is None else Checkpoint.model_validate(left.body)
        return replace(composed, invocation=composed.invocation.model_copy(update={"checkpoint": checkpoint}))


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
