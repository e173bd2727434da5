"""The third stage: attempts, until one succeeds or no further one is due."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure, Stage, StorageError
from agent_pipelines.execution.checks import run_checks
from agent_pipelines.execution.output import read_output
from agent_pipelines.execution.pricing import price
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.retry import Decision, decide
from agent_pipelines.execution.work import Failure, Success, Work
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.spans import new_span_id
from agent_pipelines.runtimes.fleet import Node
from agent_pipelines.store.database import Connection, Database, Operation

Ended = Operation[None]
"""Records how an attempt ended; the last one's is written together with the end of the execution."""


@dataclass(frozen=True)
class Invoker:
    """Asks the agent, with the retries and limits of the task."""

    database: Database
    clock: Clock
    ledger: Ledger

    async def invoke(self, work: Work) -> tuple[Success | Failure, Ended]:
        """Try until there is an outcome; the first attempt is recorded already.

        The caller writes the returned record of the last attempt. If it is cancelled, `work.interrupted` is that record.
        """
        while True:
            node = work.node
            recorder = self._recorder(work)
            started_at = max(self.clock.now(), work.begins_at)
            try:
                await self._until(work.begins_at)
                outcome = await self._attempt(work, node, recorder)
            except asyncio.CancelledError:
                work.interrupted = self._ended(work, recorder, started_at, node, "cancelled", None, None)
                raise
            work.journal_seq = recorder.seq
            if isinstance(outcome, Success):
                return outcome, self._ended(work, recorder, started_at, node, "succeeded", None, None)
            decision = self._decide(work, outcome)
            ended = self._ended(work, recorder, started_at, node, "failed", outcome, decision)
            if decision.delay is None:
                return outcome, ended
            await self.database.write(ended)
            await self.clock.sleep(decision.delay)
            work.tries += 1
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
            connection, work.stored.id, work.attempt, run_id=work.run.run_id, agent=work.agent.name, node=work.node.name
        )

    async def _attempt(self, work: Work, node: Node, recorder: Recorder) -> Success | Failure:
        limit = min(work.spec.timeout.attempt, work.remaining(self.clock.now()))
        try:
            async with asyncio.timeout(limit), aclosing(node.runtime.stream(work.invocation)) as stream:
                async for event in stream:
                    await recorder.record(event)
        except TimeoutError:
            await recorder.finish()
            which = "an attempt" if limit == work.spec.timeout.attempt else "all attempts together"
            return Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"ended after {limit:.3g} s, the limit of {which}")
        except RuntimeFailure as failure:
            await recorder.finish()
            return Failure(failure.error_class, Stage.INVOKE, failure.message, failure.status, failure.retry_after)
        except StorageError:
            raise
        except Exception as error:  # a fault of the adapter must not take the record with it
            await recorder.finish()
            return Failure(ErrorClass.INTERNAL, Stage.INVOKE, f"{type(error).__name__}: {error}")
        await recorder.finish()
        return await self._judge(work, recorder)

    async def _judge(self, work: Work, recorder: Recorder) -> Success | Failure:
        if recorder.final is None:
            return Failure(ErrorClass.PROTOCOL, Stage.INVOKE, "the runtime's stream ended without a final answer")
        try:
            output = read_output(work.spec.output, recorder.final)
        except RuntimeFailure as failure:
            return Failure(failure.error_class, Stage.SETTLE, failure.message)
        judged = output if work.spec.output.is_json else recorder.final.text
        checks = await run_checks(work.checks, judged, work.invocation)
        failed = [check for check in checks if check.blocking and not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.message or 'not passed'}" for check in failed)
            return Failure(ErrorClass.CHECK, Stage.SETTLE, f"checks failed: {words}", checks=checks)
        return Success(recorder.final, output, checks, recorder.model)

    def _decide(self, work: Work, failure: Failure) -> Decision:
        capabilities = work.agent.capabilities
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
        node: Node,
        status: Literal["succeeded", "failed", "cancelled"],
        failure: Failure | None,
        decision: Decision | None,
    ) -> Ended:
        usage = price(recorder.usage, recorder.model)
        error = "cancelled" if status == "cancelled" else None if failure is None else str(failure.error_class)
        work.trace.add(
            f"invoke_agent {work.agent.name}",
            started_at,
            self.clock.now(),
            span_id=recorder.span_id,
            error=error,
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.provider.name": node.runtime.kind,
                "gen_ai.agent.name": work.agent.name,
                "gen_ai.response.model": recorder.model,
                "gen_ai.conversation.id": work.invocation.session_id,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "agent_pipelines.attempt": recorder.attempt,
                "agent_pipelines.node": node.name,
            },
        )

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
