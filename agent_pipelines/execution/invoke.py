"""The third stage: attempts, until one succeeds or no further one is due."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.attempt_span import add_attempt
from agent_pipelines.execution.pricing import price
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.retry import Decision, decide
from agent_pipelines.execution.route import Router
from agent_pipelines.execution.work import Failure, Success, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.spans import new_span_id
from agent_pipelines.store.database import Connection, Database, Operation

Ended = Operation[None]
"""Records how an attempt ended; the last one's is written together with the end of the execution."""


@dataclass(frozen=True)
class Invoker:
    """Asks the agent, with the retries and limits of the task."""

    database: Database
    clock: Clock
    ledger: Ledger
    router: Router
    attempting: Attempting

    async def invoke(self, work: Work) -> tuple[Success | Failure, Ended]:
        """Try until there is an outcome; the first attempt is recorded already.

        The caller writes the returned record of the last attempt. If it is cancelled, `work.interrupted` is that record.
        """
        while True:
            recorder = self._recorder(work)
            started_at = max(self.clock.now(), work.begins_at)
            try:
                await self._until(work.begins_at)
                outcome = await self.attempting.attempt(work, recorder)
            except asyncio.CancelledError:
                work.interrupted = self._ended(work, recorder, started_at, "cancelled", None, None)
                raise
            work.journal_seq = recorder.seq
            if isinstance(outcome, Success):
                return outcome, self._ended(work, recorder, started_at, "succeeded", None, None)
            decision = self._decide(work, outcome)
            ended = self._ended(work, recorder, started_at, "failed", outcome, decision)
            if decision.delay is None:
                return outcome, ended
            await self.database.write(ended)
            await self.router.leave(work, outcome)
            await self.clock.sleep(decision.delay)
            work.tries += 1
            work.place = await self.router.choose(work)
            await self.database.write(lambda connection: self._start(connection, work))

    async def _until(self, instant: Microseconds) -> None:
        ahead = instant - self.clock.now()
        if ahead > 0:
            await self.clock.sleep(ahead / 1_000_000)

    def _recorder(self, work: Work) -> Recorder:
        return Recorder(
            self.database,
            self.ledger.journal,
            self.clock,
            work.trace,
            work.stored.id,
            work.attempt,
            new_span_id(),
            work.journal_seq,
        )

    def _start(self, connection: Connection, work: Work) -> None:
        self.ledger.executions.start_attempt(
            connection,
            work.stored.id,
            work.attempt,
            run_id=work.run.run_id,
            agent=work.place.agent.name,
            node=work.place.node.name,
        )

    def _decide(self, work: Work, failure: Failure) -> Decision:
        capabilities = work.place.agent.capabilities
        return decide(
            work.spec.retry,
            failure.error_class,
            attempt=work.tries,
            remaining=work.remaining(self.clock.now()),
            retry_after=failure.retry_after,
            repeatable=capabilities.honours_idempotency_key,
            cancels=capabilities.cancels,
            seed=work.stored.id,
        )

    def _ended(
        self,
        work: Work,
        recorder: Recorder,
        started_at: Microseconds,
        status: Literal["succeeded", "failed", "cancelled"],
        failure: Failure | None,
        decision: Decision | None,
    ) -> Ended:
        usage = price(recorder.usage, recorder.model)
        error = "cancelled" if status == "cancelled" else None if failure is None else str(failure.error_class)
        add_attempt(work, recorder, usage, started_at, self.clock.now(), error)

        def record(connection: Connection) -> None:
            self.ledger.executions.attempts.finish(
                connection,
                work.stored.id,
                recorder.attempt,
                status,
                usage=usage,
                model=recorder.model,
                handle=recorder.handle,
                error=None if failure is None else failure.error,
                error_status=None if failure is None else failure.status,
                retry_decision=None if decision is None else decision.reason,
                retry_delay=None if decision is None else decision.delay,
            )

        return record
