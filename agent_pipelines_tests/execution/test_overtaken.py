"""Processes that come late, runs that overtake each other, and what is decided while an effect is unknown."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from agent_pipelines import effects
from agent_pipelines.core.acting import Acting, acting_for
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, IllegalTransition, RuntimeFailure
from agent_pipelines.core.event import Handle
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.engine.reconciler import Reconciler
from agent_pipelines.engine.tick import CONTINUATION
from agent_pipelines.execution.asked import invocation_of
from agent_pipelines.execution.saga import Saga, SagaFailed
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fake import FakeConfig, FakeRuntime
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.python import PythonRuntime
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.conftest import Execute, invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime
from agent_pipelines_tests.execution.test_saga import begin  # noqa: F401
from agent_pipelines_tests.execution.test_waiting import DAY, HOUR_US, TASK, World


def test_cancelled_while_its_continuation_is_under_way_stays_cancelled(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, ["the report"])
    begun = world.execute(invocation())
    clock.time += 25 * HOUR_US
    world.look()
    assert len(world.continuations()) == 1
    with database.transaction() as connection:
        assert world.hub.executions.cancel(connection, begun.execution_id, "cancelled by kim")
    result = world.go_on()
    assert (result.status, len(world.runtime.invocations)) == (Status.CANCELLED, 1)


def test_a_late_continuation_does_not_reopen_what_another_one_has_ended(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "it may have acted"))
    world.execute(invocation())
    clock.time += 25 * HOUR_US
    world.look()
    (late,) = world.continuations()
    with database.transaction() as connection:  # the reconciler: no run came in time
        world.hub.ticks.decide(connection, late.task_key, CONTINUATION, late.occurrence, Verdict.LAUNCH_FAILED, reason="no run")
    for _ in range(4):
        clock.time += 31_000_000
        world.look()
    failed = world.go_on()
    assert (failed.status, failed.error_class) == (Status.FAILED, ErrorClass.UNKNOWN_OUTCOME)
    asked = len(world.runtime.invocations)
    # The run of the first request comes after all.
    world.execute(invocation_of(late, TASK, "", None), resumes=True, continues=late.occurrence)
    assert len(world.runtime.invocations) == asked


def _whom(hub: Hub, asked: Invocation, run_id: str = "a") -> Acting:
    with hub.database.transaction() as connection:
        frozen = asked.model_copy(update={"spec_hash": hub.ledger.specs.put(connection, spec())})
        admitted = hub.executions.admit(connection, frozen, RunRef(run_id=run_id), dedupe_key=None, trace_id="t").execution
    url = hub.database.url.render_as_string(hide_password=False)
    return Acting(
        workspace="default",
        application="app",
        task="job",
        scope=asked.idempotency_key,
        run_id=run_id,
        execution_id=admitted.id,
        database_url=SecretStr(url),
    )


def test_two_callers_of_one_key_in_a_child_process_act_once(hub: Hub) -> None:
    acted: list[str] = []

    async def act() -> str:
        acted.append("began")
        await asyncio.sleep(0.3)
        return "T-1"

    def probe() -> None:  # the receiver does not know of it yet
        return None

    async def work() -> None:
        await asyncio.gather(*(effects.once("ticket", act, probe=probe) for _ in range(2)), return_exceptions=True)

    with acting_for(_whom(hub, invocation())):  # as python_child does
        asyncio.run(work())
    assert acted == ["began"]


def test_a_saga_whose_undoing_was_decided_does_not_end_well(begin: Any) -> None:  # noqa: F811
    log: list[str] = []
    verdicts = [RuntimeError("the total is wrong"), None]

    class Killed(BaseException):
        pass

    def undo(what: str, dies: list[bool]) -> Any:
        def run(receipt: str) -> str:
            if dies and dies.pop():
                raise Killed
            log.append(f"undo {what}")
            return "undone"

        return run

    dies = [True]

    def book(saga: Saga) -> None:
        for what in ("flight", "hotel"):
            saga.step(
                what,
                lambda what=what: log.append(what) or what,
                undo=undo(what, dies if what == "flight" else []),
                undo_idempotent=True,
            )
        if (verdict := verdicts.pop(0)) is not None:  # the body's own, as an answer of a model
            raise verdict

    with pytest.raises(Killed), Saga(begin(), "trip") as saga:
        book(saga)
    assert log == ["flight", "hotel", "undo hotel"]
    with pytest.raises(SagaFailed), Saga(begin(), "trip") as saga:
        book(saga)
    assert log[-1] == "undo flight"


class Overtaken(ScriptedRuntime):
    """Its first attempt fails after another run has taken the execution over."""

    def __init__(self, hub: Hub, asked: Invocation, *, is_resumed: bool) -> None:
        super().__init__([RuntimeFailure(ErrorClass.SERVER, "HTTP 500")], ["done"])
        self.hub, self.asked, self.is_resumed = hub, asked, is_resumed

    async def stream(self, invocation: Invocation) -> Any:
        if not self.seen:
            with self.hub.database.transaction() as connection:
                stored = self.hub.executions.of_key(connection, self.asked.idempotency_key)
                assert stored is not None
                self.hub.executions.close_lost(connection, stored.id, "lost")
                if self.is_resumed:
                    again = self.asked.model_copy(update={"spec_hash": stored.spec_hash})
                    run = RunRef(run_id="b", parent_run_id="a", resumes=True)
                    self.hub.executions.admit(connection, again, run, dedupe_key=None, trace_id="t")
        async for event in super().stream(invocation):
            yield event


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_late_process_asks_no_agent_any_more(hub: Hub, execute: Execute, is_resumed: bool) -> None:
    asked = invocation()
    runtime = Overtaken(hub, asked, is_resumed=is_resumed)
    with suppress(IllegalTransition):
        execute(runtime, invocation=asked, run=RunRef(run_id="a"), spec=spec(retry={"delay": 0.01, "idempotent": True}))
    assert len(runtime.seen) == 1


def test_another_task_is_not_requested_while_an_effect_is_unknown(hub: Hub, execute: Execute, clock: ManualClock) -> None:
    async def act() -> str:
        raise ConnectionError("no answer")

    async def work(invocation: Invocation) -> str:
        return str(await effects.once("refund", act))

    task = spec(degrade=[{"to": "task", "task": "app/other", "errors": ["timeout"]}])
    request = invocation()
    with hub.database.transaction() as connection:
        hub.ticks.claim(
            connection, request.task_key, request.trigger, request.occurrence, origin=request.origin, due_at=request.due_at
        )
    assert execute(PythonRuntime.of(work), invocation=request, spec=task, run=RunRef(run_id="a")).status is Status.WAITING
    clock.time += HOUR_US
    asyncio.run(hub.poller({}).look())
    result = execute(PythonRuntime.of(work), invocation=request, spec=task, run=RunRef(run_id="b", resumes=True))
    assert (result.status, result.error_class) == (Status.FAILED, ErrorClass.TIMEOUT)
    assert result.degraded is None, result.reason


def test_a_fallback_that_has_waited_is_still_the_fallback(hub: Hub, clock: ManualClock) -> None:
    down = ScriptedRuntime([RuntimeFailure(ErrorClass.SERVER, "HTTP 500")])
    spare = FakeRuntime(FakeConfig.model_validate({"works_for": 60}), script=("from the spare",), clock=clock)
    task = spec(fallback=[{"agent": "spare"}], retry={"max_attempts": 1})
    first, second = Agent("worker", [Node("main", down)]), Agent("spare", [Node("main", spare)])
    begun = hub.runner.execute(invocation(), task, first, others=[second], run=RunRef(run_id="a"))
    assert begun.status is Status.WAITING
    clock.time += 120_000_000
    asyncio.run(hub.poller({"spare": lambda: Agent("spare", [Node("main", spare)])}).look())
    with hub.database.reading() as connection:
        (tick,) = [each for each in hub.ticks.open(connection) if each.trigger == CONTINUATION]
    done = hub.runner.execute(
        invocation_of(tick, task, "", None),
        task,
        Agent("worker", [Node("main", down)]),
        others=[Agent("spare", [Node("main", spare)])],
        run=RunRef(run_id="b", resumes=True, continues=tick.occurrence),
    )
    assert (done.status, done.text, done.agent, done.fallback_from) == (Status.SUCCEEDED, "from the spare", "spare", "worker")


def test_receipts_of_what_waits_are_kept(hub: Hub, execute: Execute, clock: ManualClock) -> None:
    acted: list[str] = []

    async def pay() -> str:
        acted.append("paid")
        return "P-1"

    async def act() -> str:
        raise ConnectionError("no answer")

    async def work(invocation: Invocation) -> str:
        paid = await effects.once("payment", pay)
        return f"{paid} {await effects.once('ticket', act)}"

    request, task = invocation(), spec(timeout={"total": "90d"})
    assert execute(PythonRuntime.of(work), invocation=request, spec=task, run=RunRef(run_id="a")).status is Status.WAITING
    clock.time += 61 * DAY * 1_000_000
    with hub.database.transaction() as connection:
        before = clock.now() - 60 * DAY * 1_000_000
        hub.executions.forget(connection, created_before=before, limit=500)
        hub.ledger.effects.forget(connection, ended_before=before, limit=500)
        (asked,) = hub.human_tasks.list(connection, is_open=True)
        hub.answers.answer(connection, asked.id, "done", actor="kim", data="T-7")
    asyncio.run(hub.poller({}).look())
    result = execute(PythonRuntime.of(work), invocation=request, spec=task, run=RunRef(run_id="b", resumes=True))
    assert (result.text, acted) == ("P-1 T-7", ["paid"])


def test_one_agent_that_cannot_be_made_does_not_end_the_poller(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, ["the report"], works_for=60)
    world.execute(invocation())

    def broken() -> Agent:
        raise RuntimeFailure(ErrorClass.AUTHENTICATION, "the variable TOKEN is not set")

    clock.time += 120_000_000
    asyncio.run(world.hub.poller({"worker": broken}).look())


def hub_continuations(world: World, connection: Any) -> list[Any]:
    return [tick for tick in world.hub.ticks.open(connection) if tick.trigger == CONTINUATION]


def test_a_continuation_whose_process_dies_each_time_ends(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, ["the report"])
    begun = world.execute(invocation())
    clock.time += 25 * HOUR_US
    world.look()
    for number in range(30):
        with database.transaction() as connection:
            ticks = hub_continuations(world, connection)
            if not ticks:
                break
            asked = invocation_of(ticks[0], TASK, "", None)
            run = RunRef(run_id=f"killed-{number}", resumes=True, continues=ticks[0].occurrence)
            world.hub.executions.admit(connection, asked, run, dedupe_key=None, trace_id="t")
            of = {"run_id": run.run_id, "execution_id": begun.execution_id}
            world.hub.ticks.decide(connection, ticks[0].task_key, CONTINUATION, ticks[0].occurrence, Verdict.RAN, **of)
            world.hub.executions.close_lost(connection, begun.execution_id, "a check ends the process")
        clock.time += 100_000_000
        world.look()
    with database.reading() as connection:
        stored = world.hub.executions.get(connection, begun.execution_id)
    assert stored is not None
    assert stored.status is Status.FAILED, f"{stored.status} after {stored.resumptions} deaths"


def test_a_run_that_takes_over_while_the_reconciler_looks_is_not_lost(hub: Hub) -> None:
    asked = invocation()
    with hub.database.transaction() as connection:
        frozen = asked.model_copy(update={"spec_hash": hub.ledger.specs.put(connection, spec())})
        hub.executions.admit(connection, frozen, RunRef(run_id="a"), dedupe_key=None, trace_id="t")
    hub.clock.time += 3_600_000_000  # type: ignore[attr-defined]

    class Runs:
        def runs_of_tick(self, tick: Any) -> list[Any]:
            return []

        def run(self, run_id: str) -> Any:
            if run_id == "a":  # while Dagster is asked, somebody re-executes the dead run from its failure
                with hub.database.transaction() as connection:
                    again = RunRef(run_id="b", parent_run_id="a", resumes=True)
                    admitted = hub.executions.admit(connection, frozen, again, dedupe_key=None, trace_id="t")
                    assert admitted.outcome == "resumed"
            return SimpleNamespace(run_id=run_id, status="FAILURE", is_over=run_id == "a")

    Reconciler(hub.database, hub.ticks, hub.daemons, hub.executions, Runs(), hub.clock, hub.continuations).reconcile()
    with hub.database.reading() as connection:
        stored = hub.executions.of_key(connection, asked.idempotency_key)
    assert stored is not None
    assert (stored.status, stored.run_id) == (Status.RUNNING, "b")


def test_a_late_process_does_not_settle_what_its_execution_waits_for(hub: Hub, execute: Execute) -> None:
    asked = invocation()

    class Late(ScriptedRuntime):
        async def stream(self, invocation: Invocation) -> Any:
            is_first = not self.seen
            async for event in super().stream(invocation):
                yield event
                if is_first and isinstance(event, Handle):
                    with hub.database.transaction() as connection:  # its run was marked as over: the reconciler
                        stored = hub.executions.of_key(connection, asked.idempotency_key)
                        assert stored is not None
                        hub.executions.close_lost(connection, stored.id, "lost")

    runtime = Late([Handle(id="h", poll_after=1.0), RuntimeFailure(ErrorClass.SERVER, "HTTP 500")], ["done"])
    with suppress(IllegalTransition):
        execute(runtime, invocation=asked, run=RunRef(run_id="a"), spec=spec(retry={"delay": 0.01}))
    with hub.database.reading() as connection:
        stored = hub.executions.of_key(connection, asked.idempotency_key)
        assert stored is not None
        wait = hub.executions.waits.unsettled(connection, stored.id)
    assert stored.status is not Status.WAITING or wait is not None, "it waits, and nothing will ever wake it"
    assert len(runtime.seen) == 1


def test_an_unknown_effect_in_a_task_group_is_waited_for(execute: Execute) -> None:
    async def act() -> str:
        raise ConnectionError("no answer")

    async def work(invocation: Invocation) -> str:
        async with asyncio.TaskGroup() as group:
            ticket = group.create_task(effects.once("ticket", act))
        return str(ticket.result())

    result = execute(PythonRuntime.of(work), run=RunRef(run_id="a"))
    assert result.status is Status.WAITING, f"{result.status} {result.error_class}: {result.error_message}"


def test_a_late_process_does_not_break_its_successor(hub: Hub, execute: Execute) -> None:
    asked = invocation()
    task = spec(retry={"delay": 0.01, "idempotent": True})
    runtime = Overtaken(hub, asked, is_resumed=True)
    with suppress(IllegalTransition):
        execute(runtime, invocation=asked, run=RunRef(run_id="a"), spec=task)
    # Run b has admitted it, and now begins its attempt with the number that it read.
    with hub.database.transaction() as connection:
        stored = hub.executions.of_key(connection, asked.idempotency_key)
        assert stored is not None
        hub.executions.start_attempt(connection, stored.id, 2, run_id="b", agent="worker", node="n1")


def test_a_wait_for_an_agent_that_is_no_longer_declared_ends_at_its_deadline(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, ["the report"])
    begun = world.execute(invocation())
    clock.time += 90 * 24 * HOUR_US
    poller = world.hub.poller({})  # the project does not declare `worker` any more
    for _ in range(3):
        asyncio.run(poller.look())
        clock.time += HOUR_US
    with database.transaction() as connection:
        world.hub.continuations.look(connection)
        wait = world.hub.executions.waits.unsettled(connection, begun.execution_id)
    assert wait is not None
    assert wait.state == "arrived", f"{wait.state}, 88 days behind its deadline"


def test_what_waits_for_people_goes_on_where_no_poller_runs(hub: Hub, execute: Execute, clock: ManualClock) -> None:
    async def act() -> str:
        raise ConnectionError("no answer")

    async def work(invocation: Invocation) -> str:
        return str(await effects.once("ticket", act))

    def look(execution_id: str | None) -> str | None:
        with hub.database.transaction() as connection:
            hub.continuations.look(connection)  # as the reconciler does
            wait = hub.executions.waits.unsettled(connection, execution_id or "")
        return wait and wait.state

    answered = execute(PythonRuntime.of(work), run=RunRef(run_id="a"))
    with hub.database.transaction() as connection:
        (asked,) = hub.human_tasks.list(connection, is_open=True)
        hub.answers.answer(connection, asked.id, "done", actor="kim", data="T-7")
    assert look(answered.execution_id) == "arrived"
    late = execute(PythonRuntime.of(work), invocation=invocation(), run=RunRef(run_id="b"))
    assert look(late.execution_id) == "waiting"
    clock.time += HOUR_US
    assert look(late.execution_id) == "arrived"
