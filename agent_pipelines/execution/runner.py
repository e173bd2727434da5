"""Carries one execution through its four stages: admit, compose, invoke, settle."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from agent_pipelines.context.composer import Composer
from agent_pipelines.core.acting import Acting
from agent_pipelines.core.clock import Clock, Microseconds, isoformat
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, IllegalTransition, Stage, StorageError
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution import bridge
from agent_pipelines.execution.admit import Admitter
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.checks import Check, Gate
from agent_pipelines.execution.compose import Composing
from agent_pipelines.execution.degrade import Degrading
from agent_pipelines.execution.effects import Effects
from agent_pipelines.execution.fleet_watch import FleetAlerts
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.execution.invoke import Invoker
from agent_pipelines.execution.placement import Placement
from agent_pipelines.execution.route import Router
from agent_pipelines.execution.settle import Settler
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.governance.human_tasks import HumanTasks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.spans import Trace, new_trace_id
from agent_pipelines.runtimes.fleet import Agent, Place
from agent_pipelines.store.database import Database

_SETTLE_WITHIN = 10.0  # seconds; a database that does not answer must not keep a cancelled process alive


class Runner:
    """Executes invocations and leaves their record.

    What the agent does wrong ends up in the result and the record; only faults of the store are raised, and IllegalTransition
    if another run has taken the execution over meanwhile.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        ticks: Ticks,
        inbox: Inbox,
        composer: Composer,
        effects_of: Callable[[Acting], Effects],
        flow: FlowControl,
        fleet: Fleet,
        human_tasks: HumanTasks,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._admitter = Admitter(database, clock, ledger, ticks)
        self._composing = Composing(database, clock, ledger, composer, ticks)
        self._flow = flow
        self.router = Router(Placement(database, clock, fleet, FleetAlerts(fleet, ledger.outbox)), flow)
        url = database.url.render_as_string(hide_password=False)
        self.attempting = Attempting(clock, url, effects_of, flow)
        self._invoker = Invoker(database, clock, ledger, self.router, self.attempting, human_tasks, self._composing)
        self._settler = Settler(database, clock, ledger, inbox, composer)
        self._degrading = Degrading(database, clock, ledger, ticks, human_tasks, self._settler)

    def execute(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        agent: Agent,
        *,
        run: RunRef,
        checks: Sequence[Check] = (),
        gate: Gate | None = None,
        others: Sequence[Agent] = (),
    ) -> ExecutionResult:
        """Execute an invocation from plain code; waits for its end. Raises StorageError if the record cannot be kept.

        `others` are the agents of the task's fallbacks; all agents are closed.
        """
        running = self.run(invocation, spec, agent, run=run, checks=checks, gate=gate, others=others)
        return bridge.run(self._close_after((agent, *others), running))

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
        others: Sequence[Agent] = (),
    ) -> ExecutionResult:
        """Execute an invocation. Cancelling it cancels the agent's work, and is recorded.

        With `begins_at` it may be called ahead: everything is made ready, and the agent is asked on that instant.
        The deadline of the invocation is the earliest of: its own, what the service level says, and the total time of the task.
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
        if admission.outcome == "new":
            deadline_at = min([deadline_at, *_promised(invocation, spec)])
        frozen = known.model_copy(update={"spec_hash": stored.spec_hash, "deadline_at": deadline_at})
        work = Work(
            spec,
            agent,
            run,
            checks,
            trace,
            stored,
            frozen,
            started_at,
            begins_at,
            others={each.name: each for each in (agent, *others)},
        )
        if (arrived := admission.arrived) is not None:
            # The same try goes on: numbers and limits count from where it began.
            work.stored = stored.model_copy(update={"attempts": arrived.attempt - arrived.tries})
            work.invocation = frozen.model_copy(update={"deadline_at": arrived.deadline_at})
            work.go_on(arrived)
        elif failure is None and deadline_at <= max(started_at, begins_at):
            words = f"the deadline was {isoformat(deadline_at)}, and the work had not begun"
            failure = Failure(ErrorClass.TIMEOUT, Stage.ADMIT, words)
        try:
            return await self._carry(work, failure)
        except asyncio.CancelledError:
            await _shielded(self._settler.cancel(work))
            raise
        except (StorageError, IllegalTransition):
            raise
        except ExecutionFailed as error:  # there is no place for its next attempt
            return await self._degrading.fail(work, Failure(error.error_class, error.stage, error.message))
        except Exception as error:
            return await self._settler.fail(work, Failure(ErrorClass.INTERNAL, Stage.SETTLE, f"{type(error).__name__}: {error}"))

    async def _carry(self, work: Work, failure: Failure | None) -> ExecutionResult:
        if failure is not None:
            return await self._degrading.fail(work, failure)
        if work.arrived is None:
            work.place = await self._first_place(work)
        else:
            named = [node for node in work.agent.nodes if node.name == work.arrived.node]
            work.place = Place(work.agent, (named or work.agent.nodes)[0])
            work.journal_seq = await self._database.read(lambda c: self._ledger.journal.last_seq(c, work.stored.id))
        ended: Success | Failure | Waiting | None = None
        try:
            if work.arrived is None:
                unfit = await self._composing.compose(work)
                if unfit is not None:
                    return await self._degrading.fail(work, unfit)
            if work.cached_from is not None:
                await self._invoker.until(work.begins_at)
                return await self._settler.reuse(work, work.cached_from)
            outcome, last_attempt = await self._invoker.invoke(work)
            ended = outcome
        finally:
            await self.router.leave(work, ended)
        if isinstance(outcome, Waiting):
            return await self._settler.wait(work, last_attempt)
        if isinstance(outcome, Success):
            return await self._settler.succeed(work, outcome, last_attempt)
        return await self._degrading.fail(work, outcome, last_attempt)

    async def _first_place(self, work: Work) -> Place:
        """The place of the first attempt, at a fallback if the agent of the task has none."""
        while True:
            try:
                return await self.router.choose(work)
            except ExecutionFailed as error:
                fallback = work.following(error.error_class)
                if fallback is None:
                    raise
                work.move_on(fallback)
                work.tries, work.tries_before = 1, 0  # nobody was asked

    async def close(self) -> None:
        """Give back what this event loop holds of limits; for who ends it."""
        await self._flow.close()

    async def _close_after(self, agents: Sequence[Agent], running: Coroutine[Any, Any, ExecutionResult]) -> ExecutionResult:
        try:
            return await running
        finally:
            for agent in agents:
                await agent.close()
            await self.close()


def _promised(invocation: Invocation, spec: TaskSpec) -> Sequence[Microseconds]:
    """The deadlines of a new invocation besides that of its own work. What is done later on purpose has none."""
    told = [] if invocation.deadline_at is None else [invocation.deadline_at]
    within = spec.service_level.finish_within
    if within is not None and invocation.origin is not Origin.BACKFILL:
        told.append(invocation.due_at + round(within * 1_000_000))
    return told


async def _shielded(settling: Coroutine[Any, Any, object]) -> None:
    try:
        async with asyncio.timeout(_SETTLE_WITHIN):
            await asyncio.shield(asyncio.ensure_future(settling))
    except (TimeoutError, StorageError, IllegalTransition):  # the last: it ended while it was being cancelled
        return
