"""Carries one execution through its four stages: admit, compose, invoke, settle."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import JsonValue

from agent_pipelines.context.composer import Composed, Composer, deduplication_key
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, RuntimeFailure, Stage, StorageError
from agent_pipelines.core.event import Final, Usage
from agent_pipelines.core.execution import CheckResult, ExecutionResult, RunRef, Status, Verdict
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution import bridge
from agent_pipelines.execution.checks import Check, Gate, run_checks
from agent_pipelines.execution.output import read_output
from agent_pipelines.execution.pricing import price
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.retry import Decision, decide
from agent_pipelines.ledger.executions import Admission, StoredExecution
from agent_pipelines.ledger.journal import Entry
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.ledger.spans import Trace, new_span_id, new_trace_id
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database


@dataclass(frozen=True)
class _Failure:
    """Why an attempt or a whole execution failed, as it is recorded."""

    error_class: ErrorClass
    stage: Stage
    message: str
    status: int | None = None
    retry_after: float | None = None
    checks: tuple[CheckResult, ...] = ()

    @property
    def error(self) -> tuple[ErrorClass, Stage, str]:
        return (self.error_class, self.stage, self.message)


@dataclass(frozen=True)
class _Success:
    final: Final
    output: JsonValue
    checks: tuple[CheckResult, ...]
    model: str | None


@dataclass
class _Work:
    """One execution on its way."""

    spec: TaskSpec
    agent: Agent
    run: RunRef
    checks: Sequence[Check]
    trace: Trace
    stored: StoredExecution
    invocation: Invocation
    started_at: Microseconds
    next_entry: int = 0
    tries: int = 0
    trimmed: tuple[str, ...] = field(default=())


class Runner:
    """Executes invocations and leaves their record.

    What the agent does wrong ends up in the result and the record; only faults of the store are raised.
    """

    def __init__(self, database: Database, clock: Clock, ledger: Ledger, ticks: Ticks, inbox: Inbox, composer: Composer) -> None:
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._ticks = ticks
        self._inbox = inbox
        self._composer = composer

    def execute(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        agent: Agent,
        *,
        run: RunRef,
        checks: Sequence[Check] = (),
        gate: Gate | None = None,
    ) -> ExecutionResult:
        """Execute an invocation from plain code; waits for its end. Raises StorageError if the record cannot be kept."""
        return bridge.run(self._close_after(agent, self.run(invocation, spec, agent, run=run, checks=checks, gate=gate)))

    async def run(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        agent: Agent,
        *,
        run: RunRef,
        checks: Sequence[Check] = (),
        gate: Gate | None = None,
    ) -> ExecutionResult:
        """Execute an invocation. Cancelling it cancels the agent's work, and is recorded."""
        trace = Trace(new_trace_id())
        started_at = self._clock.now()
        skip, early_failure = await self._ask_gate(gate, invocation)
        dedupe_key = None
        try:
            dedupe_key = deduplication_key(spec, invocation)
        except ExecutionFailed as failure:
            early_failure = _Failure(failure.error_class, Stage.ADMIT, failure.message)
        admission = await self._admit(invocation, spec, run, trace, skip, dedupe_key)
        stored = admission.execution
        if admission.outcome == "duplicate":
            reason = f"deduplicated into execution {stored.id} of run {stored.run_id}"
            return stored.result().model_copy(update={"deduplicated_into": stored.id, "reason": reason})
        if admission.outcome == "finished" or stored.status is Status.SKIPPED:
            return stored.result()
        trace.add("admit", started_at, self._clock.now(), attributes={"agent_pipelines.admission": admission.outcome})
        # The record is without secrets; a new execution works with what it was really given.
        known = invocation if admission.outcome == "new" else stored.invocation
        deadline_at = started_at + round(spec.timeout.total * 1_000_000)
        frozen = known.model_copy(update={"spec_hash": stored.spec_hash, "deadline_at": deadline_at})
        work = _Work(spec, agent, run, checks, trace, stored, frozen, started_at)
        try:
            if early_failure is not None:
                return await self._fail(work, early_failure)
            composed = await self._compose(work)
            if isinstance(composed, _Failure):
                return await self._fail(work, composed)
            outcome = await self._invoke(work)
            if isinstance(outcome, _Failure):
                return await self._fail(work, outcome)
            return await self._succeed(work, outcome)
        except asyncio.CancelledError:
            await self._shielded(self._cancel(work))
            raise
        except StorageError:
            raise
        except Exception as error:
            return await self._fail(work, _Failure(ErrorClass.INTERNAL, Stage.SETTLE, f"{type(error).__name__}: {error}"))

    async def _close_after(self, agent: Agent, running: Coroutine[Any, Any, ExecutionResult]) -> ExecutionResult:
        try:
            return await running
        finally:
            await agent.close()

    # --- admit

    async def _ask_gate(self, gate: Gate | None, invocation: Invocation) -> tuple[str | None, _Failure | None]:
        if gate is None:
            return None, None
        try:
            answer = await asyncio.to_thread(gate, invocation)
        except Exception as error:
            return None, _Failure(ErrorClass.CHECK, Stage.ADMIT, f"the gate raised {type(error).__name__}: {error}")
        return (answer if isinstance(answer, str) and answer else None), None

    async def _admit(
        self, invocation: Invocation, spec: TaskSpec, run: RunRef, trace: Trace, skip: str | None, dedupe_key: str | None
    ) -> Admission:
        executions, ticks = self._ledger.executions, self._ticks

        def admit(connection: sa.Connection) -> Admission:
            spec_hash = self._ledger.specs.put(connection, spec)
            frozen = invocation.model_copy(update={"spec_hash": spec_hash})
            tick = (frozen.task_key, frozen.trigger, frozen.occurrence)
            ticks.claim(
                connection,
                *tick,
                origin=frozen.origin,
                due_at=frozen.due_at,
                logical_at=frozen.logical_at,
                actor=frozen.actor,
                inputs={"variables": recordable(frozen.variables)},
                run_id=run.run_id,
            )
            admission = executions.admit(connection, frozen, run, dedupe_key=dedupe_key, trace_id=trace.trace_id)
            stored = admission.execution
            if admission.outcome == "duplicate":
                decided = ticks.decide(
                    connection,
                    *tick,
                    Verdict.DEDUPLICATED,
                    run_id=run.run_id,
                    execution_id=stored.id,
                    reason=f"same work as {stored.id}",
                )
                if not decided:
                    # The tick has its verdict from the first run; the second one is noted in the execution's own journal.
                    self._note(connection, stored.id, "duplicate_run", {"run_id": run.run_id})
            elif admission.outcome == "new" and skip is not None:
                stored = executions.close(connection, stored.id, Status.SKIPPED, reason=recordable_text(skip))
                ticks.decide(connection, *tick, Verdict.SKIPPED, run_id=run.run_id, execution_id=stored.id, reason=stored.reason)
            else:
                ticks.decide(connection, *tick, Verdict.RAN, run_id=run.run_id, execution_id=stored.id)
            return Admission(admission.outcome, stored)

        return await self._database.write(admit)

    def _note(self, connection: sa.Connection, execution_id: str, kind: str, body: dict[str, JsonValue]) -> None:
        journal = self._ledger.journal
        seq = journal.last_seq(connection, execution_id) + 1
        journal.append(connection, execution_id, [Entry(seq=seq, attempt=0, at=self._clock.now(), kind=kind, body=body)])

    # --- compose

    async def _compose(self, work: _Work) -> Composed | _Failure:
        started_at = self._clock.now()
        executions, journal = self._ledger.executions, self._ledger.journal

        def compose(connection: sa.Connection) -> tuple[Composed, int]:
            composed = self._composer.compose(
                connection,
                work.invocation,
                work.spec,
                agent=work.agent.name,
                keeps_sessions=work.agent.capabilities.keeps_sessions,
                execution_id=work.stored.id,
                upstream=self._upstream(connection, work.spec),
            )
            executions.compose(connection, work.stored.id, composed.invocation, trimmed=composed.trimmed)
            return composed, journal.last_seq(connection, work.stored.id)

        try:
            composed, work.next_entry = await self._database.write(compose)
        except ExecutionFailed as failure:
            return _Failure(failure.error_class, failure.stage, failure.message)
        work.invocation = composed.invocation
        work.trimmed = composed.trimmed
        work.trace.add("compose", started_at, self._clock.now(), attributes={"agent_pipelines.trimmed": list(composed.trimmed)})
        return composed

    def _upstream(self, connection: sa.Connection, spec: TaskSpec) -> Mapping[str, JsonValue]:
        outputs: dict[str, JsonValue] = {}
        for path in spec.dependency_paths:
            application, _, task = path.partition("/")
            latest = self._ledger.executions.latest_success(connection, (spec.workspace, application, task))
            if latest is not None:
                outputs[path] = latest.text if latest.output is None else latest.output
        return outputs

    # --- invoke

    async def _invoke(self, work: _Work) -> _Success | _Failure:
        while True:
            work.tries += 1
            node = work.agent.pick(work.tries)
            number = work.stored.attempts + work.tries
            await self._database.write(
                lambda connection, number=number, node=node: self._ledger.executions.start_attempt(
                    connection, work.stored.id, number, run_id=work.run.run_id, agent=work.agent.name, node=node.name
                )
            )
            started_at = self._clock.now()
            recorder = Recorder(
                self._database,
                self._ledger.journal,
                self._clock,
                work.trace,
                work.stored.id,
                number,
                new_span_id(),
                work.next_entry,
            )
            try:
                outcome = await self._attempt(work, node, recorder)
            except asyncio.CancelledError:
                await self._shielded(self._finish_attempt(work, recorder, started_at, node, "cancelled", None, None))
                raise
            work.next_entry = recorder.seq
            decision = self._decide(work, outcome) if isinstance(outcome, _Failure) else None
            await self._finish_attempt(
                work,
                recorder,
                started_at,
                node,
                "failed" if isinstance(outcome, _Failure) else "succeeded",
                outcome if isinstance(outcome, _Failure) else None,
                decision,
            )
            if decision is None or decision.delay is None:
                return outcome
            await self._clock.sleep(decision.delay)

    async def _attempt(self, work: _Work, node: Node, recorder: Recorder) -> _Success | _Failure:
        limit = min(work.spec.timeout.attempt, self._remaining(work))
        try:
            async with asyncio.timeout(limit):
                async with aclosing(node.runtime.stream(work.invocation)) as stream:  # pyright: ignore[reportArgumentType]
                    async for event in stream:
                        await recorder.record(event)
        except TimeoutError:
            await recorder.finish()
            which = "an attempt" if limit == work.spec.timeout.attempt else "all attempts together"
            return _Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"ended after {limit:.3g} s, the limit of {which}")
        except RuntimeFailure as failure:
            await recorder.finish()
            return _Failure(failure.error_class, Stage.INVOKE, failure.message, failure.status, failure.retry_after)
        except (StorageError, asyncio.CancelledError):
            raise
        except Exception as error:  # a fault of the adapter must not take the record with it
            await recorder.finish()
            return _Failure(ErrorClass.INTERNAL, Stage.INVOKE, f"{type(error).__name__}: {error}")
        await recorder.finish()
        if recorder.final is None:
            return _Failure(ErrorClass.PROTOCOL, Stage.INVOKE, "the runtime's stream ended without a final answer")
        try:
            output = read_output(work.spec.output, recorder.final)
        except RuntimeFailure as failure:
            return _Failure(failure.error_class, Stage.SETTLE, failure.message)
        judged = output if work.spec.output.is_json else recorder.final.text
        checks = await run_checks(work.checks, judged, work.invocation)
        failed = [check for check in checks if check.blocking and not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.message or 'not passed'}" for check in failed)
            return _Failure(ErrorClass.CHECK, Stage.SETTLE, f"checks failed: {words}", checks=checks)
        return _Success(recorder.final, output, checks, recorder.model)

    def _decide(self, work: _Work, failure: _Failure) -> Decision:
        capabilities = work.agent.capabilities
        return decide(
            work.spec.retry,
            failure.error_class,
            attempt=work.tries,
            remaining=self._remaining(work),
            retry_after=failure.retry_after,
            repeatable=capabilities.honours_idempotency_key,
            cancels=capabilities.cancels,
            seed=work.stored.id,
        )

    def _remaining(self, work: _Work) -> float:
        return max(0.0, work.spec.timeout.total - (self._clock.now() - work.started_at) / 1_000_000)

    async def _finish_attempt(
        self,
        work: _Work,
        recorder: Recorder,
        started_at: Microseconds,
        node: Node,
        status: Literal["succeeded", "failed", "cancelled"],
        failure: _Failure | None,
        decision: Decision | None,
    ) -> None:
        usage = price(recorder.usage, recorder.model)
        self._invoke_span(work, recorder, started_at, node, usage, "cancelled" if status == "cancelled" else failure)
        executions = self._ledger.executions

        def finish(connection: sa.Connection) -> None:
            if recorder.handle is not None:
                executions.record_handle(connection, work.stored.id, recorder.attempt, recorder.handle)
            executions.finish_attempt(
                connection,
                work.stored.id,
                recorder.attempt,
                status,
                usage=usage,
                model=recorder.model,
                error=None if failure is None else failure.error,
                error_status=None if failure is None else failure.status,
                retry_decision=None if decision is None else decision.reason,
                retry_delay=None if decision is None else decision.delay,
            )

        await self._database.write(finish)

    def _invoke_span(
        self,
        work: _Work,
        recorder: Recorder,
        started_at: Microseconds,
        node: Node,
        usage: Usage,
        failure: "_Failure | str | None",
    ) -> None:
        work.trace.add(
            f"invoke_agent {work.agent.name}",
            started_at,
            self._clock.now(),
            span_id=recorder.span_id,
            error=str(failure.error_class) if isinstance(failure, _Failure) else failure,
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

    # --- settle

    async def _succeed(self, work: _Work, success: _Success) -> ExecutionResult:
        ledger = self._ledger
        started_at = self._clock.now()

        def settle(connection: sa.Connection) -> StoredExecution:
            self._composer.remember(
                connection,
                work.invocation,
                work.spec,
                execution_id=work.stored.id,
                text=success.final.text,
                output=success.output,
                remote_session_id=success.final.session_id,
            )
            closed = ledger.executions.close(
                connection,
                work.stored.id,
                Status.SUCCEEDED,
                model=success.model,
                text=success.final.text,
                output=success.output,
                checks=success.checks,
            )
            if work.spec.emits is not None:
                payload = success.output if isinstance(success.output, dict) else {"output": success.output or success.final.text}
                self._inbox.put(
                    connection,
                    work.spec.emits,
                    payload,
                    workspace=work.spec.workspace,
                    source=f"task:{work.spec.path}",
                    key=work.stored.id,
                    actor=f"task:{work.spec.path}",
                )
            self._finish_record(connection, work, closed, started_at)
            return closed

        try:
            closed = await self._database.write(settle)
        except ExecutionFailed as failure:
            return await self._fail(work, _Failure(failure.error_class, failure.stage, failure.message, checks=success.checks))
        return closed.result()

    async def _fail(self, work: _Work, failure: _Failure) -> ExecutionResult:
        return await self._end_badly(work, Status.FAILED, failure)

    async def _cancel(self, work: _Work) -> ExecutionResult:
        failure = _Failure(ErrorClass.CANCELLED, Stage.INVOKE, "cancelled on request")
        return await self._end_badly(work, Status.CANCELLED, failure)

    async def _end_badly(self, work: _Work, status: Status, failure: _Failure) -> ExecutionResult:
        started_at = self._clock.now()

        def settle(connection: sa.Connection) -> StoredExecution:
            closed = self._ledger.executions.close(connection, work.stored.id, status, error=failure.error, checks=failure.checks)
            self._finish_record(connection, work, closed, started_at)
            return closed

        return (await self._database.write(settle)).result()

    def _finish_record(self, connection: sa.Connection, work: _Work, closed: StoredExecution, settled_from: Microseconds) -> None:
        now = self._clock.now()
        error = None if closed.error_class is None else str(closed.error_class)
        work.trace.add("settle", settled_from, now, error=error)
        work.trace.add(
            f"execute {closed.path}",
            work.started_at,
            now,
            span_id=work.trace.root_id,
            error=error,
            attributes={
                "agent_pipelines.execution_id": closed.id,
                "agent_pipelines.task": closed.path,
                "agent_pipelines.workspace": closed.workspace,
                "agent_pipelines.run_id": closed.run_id,
                "agent_pipelines.origin": str(closed.origin),
                "agent_pipelines.prompt_version": closed.prompt_version,
            },
        )
        self._ledger.spans.append(connection, closed.id, work.trace.spans)
        self._ledger.outbox.put(
            connection,
            closed.task_key,
            f"execution.{closed.status}",
            {"run_id": closed.run_id, "error_class": error, "notifications": list(work.spec.notifications)},
            execution_id=closed.id,
        )

    async def _shielded(self, settling: Coroutine[Any, Any, object]) -> None:
        # Bounded: a database that does not answer must not keep a cancelled process alive.
        try:
            async with asyncio.timeout(10):
                await asyncio.shield(asyncio.ensure_future(settling))
        except (TimeoutError, StorageError):
            return
