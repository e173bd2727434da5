"""The last stage: what the outcome leaves behind, in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.context.composer import Composer
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import FINAL, CheckResult, Degraded, ExecutionResult, Status
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.execution.work import Failure, Success, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection, Database, Operation

Instead = Callable[[Connection], tuple[Degraded, str]]
"""Does something about a failure in the transaction that records it; what that is, and in words."""


@dataclass(frozen=True)
class Settler:
    """Closes executions: session turn, state, event, spans and outbox come with the status or not at all."""

    database: Database
    clock: Clock
    ledger: Ledger
    inbox: Inbox
    composer: Composer

    async def succeed(self, work: Work, success: Success, last_attempt: Operation[None]) -> ExecutionResult:
        """Close a success; fails it after all if the output lacks what the task is to remember."""
        started_at = self.clock.now()

        def settle(connection: Connection) -> StoredExecution:
            last_attempt(connection)
            self.composer.remember(
                connection,
                work.invocation,
                work.spec,
                execution_id=work.stored.id,
                text=success.final.text,
                output=success.output,
                remote_session_id=success.final.session_id,
                by_fallback=work.fallbacks > 0,
            )
            closed = self.ledger.executions.close(
                connection,
                work.stored.id,
                Status.SUCCEEDED,
                model=success.model,
                text=success.final.text,
                output=success.output,
                checks=success.checks,
                run_id=work.run.run_id,
                fallback_from=work.fallback_from,
            )
            if work.spec.emits is not None:
                self._emit(connection, work, success.output, success.final.text, work.spec.emits)
            self._keep(connection, work)
            self._finish(connection, work, closed, started_at)
            return closed

        try:
            return (await self.database.write(settle)).result()
        except ExecutionFailed as failure:
            why = Failure(failure.error_class, failure.stage, failure.message, checks=success.checks)
            return await self.fail(work, why, last_attempt)

    async def wait(self, work: Work, begins_to_wait: Operation[None]) -> ExecutionResult:
        """Leave an execution waiting, held by no process."""
        started_at = self.clock.now()

        def settle(connection: Connection) -> StoredExecution:
            begins_to_wait(connection)
            waiting = self.ledger.executions.wait(connection, work.stored.id, run_id=work.run.run_id)
            self._finish(connection, work, waiting, started_at)
            return waiting

        return (await self.database.write(settle)).result()

    async def fail(
        self,
        work: Work,
        failure: Failure,
        last_attempt: Operation[None] | None = None,
        instead: Instead | None = None,
    ) -> ExecutionResult:
        """Close a failure; `instead` sees to what is done about it, and says that in words."""
        return await self._end_badly(work, Status.FAILED, failure, last_attempt, instead)

    async def reuse(self, work: Work, execution_id: str) -> ExecutionResult:
        """Close a success with the result of an identical call, as if the agent had given it; nothing is spent."""
        started_at = self.clock.now()

        def settle(connection: Connection) -> StoredExecution:
            source = self.ledger.executions.get(connection, execution_id)
            assert source is not None
            text = source.text or ""
            self.composer.remember(
                connection,
                work.invocation,
                work.spec,
                execution_id=work.stored.id,
                text=text,
                output=source.output,
                remote_session_id=None,
            )
            closed = self.ledger.executions.close(
                connection,
                work.stored.id,
                Status.SUCCEEDED,
                model=source.model,
                text=text,
                output=source.output,
                checks=source.checks or (),
                run_id=work.run.run_id,
                cached_from=source.id,
            )
            if work.spec.emits is not None:
                self._emit(connection, work, source.output, text, work.spec.emits)
            self._finish(connection, work, closed, started_at)
            return closed

        return (await self.database.write(settle)).result()

    async def substitute(
        self,
        work: Work,
        degraded: Degraded,
        reason: str,
        last_attempt: Operation[None] | None,
        *,
        text: str,
        output: JsonValue,
        checks: Sequence[CheckResult] = (),
        model: str | None = None,
        stale_from: str | None = None,
    ) -> ExecutionResult:
        """Close with a result that is not what was asked for, and is marked so. It leaves no state, no turn and no event."""
        started_at = self.clock.now()

        def settle(connection: Connection) -> StoredExecution:
            if last_attempt is not None:
                last_attempt(connection)
            closed = self.ledger.executions.close(
                connection,
                work.stored.id,
                Status.SUCCEEDED,
                model=model,
                text=text,
                output=output,
                checks=checks,
                reason=reason,
                run_id=work.run.run_id,
                degraded=degraded,
                stale_from=stale_from,
                fallback_from=work.fallback_from,
            )
            self._finish(connection, work, closed, started_at)
            return closed

        return (await self.database.write(settle)).result()

    async def cancel(self, work: Work) -> ExecutionResult:
        """Close what was cancelled."""
        failure = Failure(ErrorClass.CANCELLED, Stage.INVOKE, "cancelled on request")

        def unasked(connection: Connection) -> None:
            # It may have begun in a write that nobody waited for any more.
            self.ledger.executions.attempts.finish(connection, work.stored.id, work.attempt, "cancelled", usage=Usage())

        return await self._end_badly(work, Status.CANCELLED, failure, work.interrupted or unasked)

    async def _end_badly(
        self,
        work: Work,
        status: Status,
        failure: Failure,
        last_attempt: Operation[None] | None,
        instead: Instead | None = None,
    ) -> ExecutionResult:
        started_at = self.clock.now()

        def settle(connection: Connection) -> StoredExecution:
            if last_attempt is not None:
                last_attempt(connection)
            degraded, reason = (None, None) if instead is None else instead(connection)
            closed = self.ledger.executions.close(
                connection,
                work.stored.id,
                status,
                error=failure.error,
                checks=failure.checks,
                reason=reason,
                run_id=work.run.run_id,
                degraded=degraded,
                fallback_from=work.fallback_from,
            )
            self._finish(connection, work, closed, started_at)
            return closed

        return (await self.database.write(settle)).result()

    def _keep(self, connection: Connection, work: Work) -> None:
        """Keep the result for identical calls, unless a call has done something that the result alone would not do."""
        if work.spec.cache is None or work.cache_key is None or work.fallbacks:
            return
        workspace = work.spec.workspace
        if not self.ledger.effects.list(connection, workspace=workspace, execution_id=work.stored.id, limit=1):
            self.ledger.results.keep(connection, work.cache_key, work.spec.key, work.stored.id, work.spec.cache.ttl)

    def _emit(self, connection: Connection, work: Work, output: JsonValue, text: str, event: str) -> None:
        self.inbox.put(
            connection,
            event,
            output if isinstance(output, dict) else {"output": output or text},
            workspace=work.spec.workspace,
            source=f"task:{work.spec.path}",
            key=work.stored.id,
            actor=f"task:{work.spec.path}",
        )

    def _finish(self, connection: Connection, work: Work, closed: StoredExecution, settled_from: Microseconds) -> None:
        now = self.clock.now()
        if work.has_wait and closed.status in FINAL:
            self.ledger.executions.waits.settle(connection, closed.id)
        error = None if closed.error_class is None else str(closed.error_class)
        trace = work.trace.copy()  # this may be done twice, see Database.write
        trace.add("settle", settled_from, now, error=error)
        trace.add(
            f"execute {closed.path}",
            work.started_at,
            now,
            span_id=trace.root_id,
            error=error,
            attributes={
                "agent_pipelines.execution_id": closed.id,
                "agent_pipelines.task": closed.path,
                "agent_pipelines.workspace": closed.workspace,
                "agent_pipelines.run_id": closed.run_id,
                "agent_pipelines.origin": str(closed.origin),
                "agent_pipelines.prompt_version": closed.prompt_version,
                "agent_pipelines.degraded": None if closed.degraded is None else str(closed.degraded),
                "agent_pipelines.cached_from": closed.cached_from,
                "agent_pipelines.fallback_from": closed.fallback_from,
            },
        )
        self.ledger.spans.append(connection, closed.id, trace.spans)
        self.ledger.outbox.put(
            connection,
            closed.task_key,
            f"execution.{closed.status}",
            {
                "run_id": closed.run_id,
                "error_class": error,
                "degraded": None if closed.degraded is None else str(closed.degraded),
                "notifications": list(work.spec.notifications),
            },
            execution_id=closed.id,
        )
