"""The first stage: may this run do this work, or is it done, running or not wanted?"""

import asyncio
from dataclasses import dataclass
from functools import partial

from agent_pipelines.context.composer import deduplication_key
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.tick import CONTINUATION
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.checks import Gate
from agent_pipelines.execution.work import Failure
from agent_pipelines.ledger.executions import Admission
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection, Database

_GIVEN_UP = (Verdict.SKIPPED, Verdict.MISSED, Verdict.LAUNCH_FAILED)


@dataclass(frozen=True)
class Admitter:
    """Asks the gate, takes the unique keys and gives the tick its verdict, in one transaction."""

    database: Database
    clock: Clock
    ledger: Ledger
    ticks: Ticks

    async def admit(
        self, invocation: Invocation, spec: TaskSpec, run: RunRef, gate: Gate | None, trace_id: str, begins_at: Microseconds
    ) -> tuple[Admission, Failure | None]:
        """Admit an invocation, and say what has failed already, which the execution then ends with."""
        failure: Failure | None = None
        skip, dedupe_key = None, None
        try:
            if run.continues is None:  # else that was decided before it waited
                skip = await self._ask(gate, invocation)
                dedupe_key = deduplication_key(spec, invocation)
        except ExecutionFailed as early:
            failure = Failure(early.error_class, Stage.ADMIT, early.message)
        admission = await self.database.write(
            lambda connection: self._admit(connection, invocation, spec, run, trace_id, begins_at, skip, dedupe_key)
        )
        return admission, failure

    async def _ask(self, gate: Gate | None, invocation: Invocation) -> str | None:
        if gate is None:
            return None
        try:
            answer = await asyncio.to_thread(gate, invocation)
        except Exception as error:
            words = f"the gate raised {type(error).__name__}: {error}"
            raise ExecutionFailed(ErrorClass.CHECK, Stage.ADMIT, words) from error
        return answer if isinstance(answer, str) and answer else None

    def _admit(
        self,
        connection: Connection,
        invocation: Invocation,
        spec: TaskSpec,
        run: RunRef,
        trace_id: str,
        begins_at: Microseconds,
        skip: str | None,
        dedupe_key: str | None,
    ) -> Admission:
        executions = self.ledger.executions
        frozen = invocation.model_copy(update={"spec_hash": self.ledger.specs.put(connection, spec)})
        admission = executions.admit(connection, frozen, run, dedupe_key=dedupe_key, trace_id=trace_id, begins_at=begins_at)
        stored = admission.execution
        if run.continues is not None:
            of = {"run_id": run.run_id, "execution_id": stored.id}
            self.ticks.decide(connection, frozen.task_key, CONTINUATION, run.continues, Verdict.RAN, **of)
        if admission.outcome == "duplicate":
            reason = f"same work as execution {stored.id}"
            if not self._decide(connection, frozen, run, stored, Verdict.DEDUPLICATED, reason):
                # The tick has its verdict from the first run; the second one is noted in the execution's own journal.
                now = self.clock.now()
                self.ledger.journal.note(connection, stored.id, at=now, kind="duplicate_run", body={"run_id": run.run_id})
        elif admission.outcome == "new" and skip is not None:
            stored = executions.close(connection, stored.id, Status.SKIPPED, reason=recordable_text(skip))
            self._decide(connection, frozen, run, stored, Verdict.SKIPPED, stored.reason)
        elif not self._decide(connection, frozen, run, stored, Verdict.RAN) and admission.outcome == "new" and not run.resumes:
            # A run that comes after its tick was given up, or was replaced by a later one, must not make that verdict untrue.
            tick = self.ticks.find(connection, frozen.task_key, frozen.trigger, frozen.occurrence)
            if tick is not None and tick.verdict in _GIVEN_UP:
                reason = f"the tick was decided before this run came: {tick.verdict}: {tick.reason}"
                stored = executions.close(connection, stored.id, Status.SKIPPED, reason=reason)
        return Admission(admission.outcome, stored, admission.arrived)

    def _decide(
        self,
        connection: Connection,
        invocation: Invocation,
        run: RunRef,
        stored: StoredExecution,
        verdict: Verdict,
        reason: str | None = None,
    ) -> bool:
        """Give the tick its verdict; one that nobody has claimed, as after a click in Dagster, is claimed first."""
        tick = (invocation.task_key, invocation.trigger, invocation.occurrence)
        decide = partial(self.ticks.decide, connection, *tick, verdict, run_id=run.run_id, execution_id=stored.id, reason=reason)
        if decide():
            return True
        _, is_new = self.ticks.claim(
            connection,
            *tick,
            origin=invocation.origin,
            due_at=invocation.due_at,
            logical_at=invocation.logical_at,
            actor=invocation.actor,
            inputs={"variables": recordable(invocation.variables)},
            run_id=run.run_id,
        )
        return is_new and decide()
