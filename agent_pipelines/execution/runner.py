"""Carries one execution through its four stages: admit, compose, invoke, settle."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from agent_pipelines.context.composer import Composer
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, IllegalTransition, Stage, StorageError
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution import bridge
from agent_pipelines.execution.admit import Admitter
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.checks import Check, Gate
from agent_pipelines.execution.compose import Composing
from agent_pipelines.execution.fleet_watch import FleetAlerts
from agent_pipelines.execution.invoke import Invoker
from agent_pipelines.execution.route import Router
from agent_pipelines.execution.settle import Settler
from agent_pipelines.execution.work import Failure, Success, Work
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.spans import Trace, new_trace_id
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Database

_SETTLE_WITHIN = 10.0  # seconds; a database that does not answer must not keep a cancelled process alive


class Runner:
    """Executes invocations and leaves their record.

    What the agent does wrong ends up in the result and the record; only faults of the store are raised, and IllegalTransition
    if another run has taken the execution over meanwhile.
    """

    def __init__(
        self, database: Database, clock: Clock, ledger: Ledger, ticks: Ticks, inbox: Inbox, composer: Composer, fleet: Fleet
    ) -> None:
        self._clock = clock
        self._admitter = Admitter(database, clock, ledger, ticks)
        self._composing = Composing(database, clock, ledger, composer, ticks)
        self._router = Router(database, clock, fleet, FleetAlerts(fleet, ledger.outbox))
        self._invoker = Invoker(database, clock, ledger, self._router, Attempting(clock))
        self._settler = Settler(database, clock, ledger, inbox, composer)

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
        return bridge.run(_close_after(agent, self.run(invocation, spec, agent, run=run, checks=checks, gate=gate)))

    async def run(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        agent: Agent,
        *,
        run: RunRef,
        checks: Sequence[Check] = (),
        gate: Gate | None = None,
        begins_at: Microseconds = 0,
    ) -> ExecutionResult:
        """Execute an invocation. Cancelling it cancels the agent's work, and is recorded.

        With `begins_at` it may be called ahead: everything is made ready, and the agent is asked on that instant.
        """
        trace = Trace(new_trace_id())
        started_at = self._clock.now()
        # Functions, gates and checks see what templates see: the variables of the task below those of this invocation.
        invocation = invocation.model_copy(update={"variables": {**spec.variables, **invocation.variables}})
        admission, failure = await self._admitter.admit(invocation, spec, run, gate, trace.trace_id, begins_at)
        stored = admission.execution
        if admission.outcome == "duplicate":
            reason = f"deduplicated into execution {stored.id} of run {stored.run_id}"
            return stored.result().model_copy(update={"deduplicated_into": stored.id, "reason": reason})
        if admission.outcome == "finished" or stored.status is Status.SKIPPED:
            return stored.result()
        trace.trace_id = stored.trace_id or trace.trace_id  # a resumed execution goes on in its first trace
        trace.add("admit", started_at, self._clock.now(), attributes={"agent_pipelines.admission": admission.outcome})
        # The record is without secrets; a new execution works with what it was really given.
        known = invocation if admission.outcome == "new" else stored.invocation
        deadline_at = max(started_at, begins_at) + round(spec.timeout.total * 1_000_000)
        frozen = known.model_copy(update={"spec_hash": stored.spec_hash, "deadline_at": deadline_at})
        work = Work(spec, agent, run, checks, trace, stored, frozen, started_at, begins_at)
        try:
            return await self._carry(work, failure)
        except asyncio.CancelledError:
            await _shielded(self._settler.cancel(work))
            raise
        except (StorageError, IllegalTransition):
            raise
        except ExecutionFailed as error:  # there is no place for its next attempt
            return await self._settler.fail(work, Failure(error.error_class, error.stage, error.message))
        except Exception as error:
            return await self._settler.fail(work, Failure(ErrorClass.INTERNAL, Stage.SETTLE, f"{type(error).__name__}: {error}"))

    async def _carry(self, work: Work, failure: Failure | None) -> ExecutionResult:
        if failure is not None:
            return await self._settler.fail(work, failure)
        work.place = await self._router.choose(work)
        ended: Success | Failure | None = None
        try:
            unfit = await self._composing.compose(work)
            if unfit is not None:
                return await self._settler.fail(work, unfit)
            outcome, last_attempt = await self._invoker.invoke(work)
            ended = outcome
        finally:
            await self._router.leave(work, ended)
        if isinstance(outcome, Success):
            return await self._settler.succeed(work, outcome, last_attempt)
        return await self._settler.fail(work, outcome, last_attempt)


async def _close_after(agent: Agent, running: Coroutine[Any, Any, ExecutionResult]) -> ExecutionResult:
    try:
        return await running
    finally:
        await agent.close()


async def _shielded(settling: Coroutine[Any, Any, object]) -> None:
    try:
        async with asyncio.timeout(_SETTLE_WITHIN):
            await asyncio.shield(asyncio.ensure_future(settling))
    except (TimeoutError, StorageError, IllegalTransition):  # the last: it ended while it was being cancelled
        return
