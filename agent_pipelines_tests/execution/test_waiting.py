import asyncio
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Handle, Question, Usage, UsageReport
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.engine.tick import CONTINUATION, Tick
from agent_pipelines.execution.asked import invocation_of
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.runtimes.fake import FakeConfig, FakeRuntime
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.conftest import invocation, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime

DAY = 86_400
HOUR_US = 3_600_000_000
TASK = spec(timeout={"attempt": "5m", "total": "2d"}, retry={"delay": 1, "jitter": 0})


class World:
    """One deployment's record, and an agent that works without being held."""

    def __init__(
        self, database: Database, clock: ManualClock, *script: Any, works_for: float | None = DAY, **config: Any
    ) -> None:
        self.database, self.clock = database, clock
        self.script = script
        self.config = FakeConfig.model_validate({"works_for": works_for, **config})
        self.restart()

    def restart(self) -> None:
        """Another process over the same database: nothing that was in memory is left."""
        self.hub = Hub(self.database, self.clock)
        self.runtime = FakeRuntime(self.config, script=self.script, clock=self.clock)
        self.poller = self.hub.poller({"worker": self.agent})

    def agent(self) -> Agent:
        return Agent("worker", [Node("main", self.runtime)])

    def execute(self, asked: Invocation, *, task: Any = TASK, **run: Any) -> ExecutionResult:
        given = RunRef(**{"run_id": new_id(), **run})
        return self.hub.runner.execute(asked, task, self.agent(), run=given)

    def look(self) -> int:
        return asyncio.run(self.poller.look()).taken

    def continuations(self) -> list[Tick]:
        with self.database.reading() as connection:
            return [tick for tick in self.hub.ticks.open(connection) if tick.trigger == CONTINUATION]

    def go_on(self, *, task: Any = TASK) -> ExecutionResult:
        """The run that the only continuation asks for."""
        (tick,) = self.continuations()
        return self.execute(invocation_of(tick, task, "", None), task=task, resumes=True, continues=tick.occurrence)

    def stored(self, result: ExecutionResult) -> StoredExecution:
        with self.database.reading() as connection:
            stored = self.hub.executions.get(connection, result.execution_id)
        assert stored is not None
        return stored

    def attempts(self, result: ExecutionResult) -> list[str]:
        with self.database.reading() as connection:
            return [each.status for each in self.hub.executions.attempts.of(connection, result.execution_id)]

    def kinds(self, result: ExecutionResult) -> list[str]:
        with self.database.reading() as connection:
            return [entry.kind for entry in self.hub.ledger.journal.read(connection, result.execution_id)]


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock, ["the report"], usage=Usage(input_tokens=5, output_tokens=2))


def test_a_task_of_24_hours_survives_two_restarts(world: World) -> None:
    asked = invocation()
    begun = world.execute(asked)
    assert (begun.status, world.attempts(begun)) == (Status.WAITING, ["running"])
    for _ in range(2):
        world.restart()
        for _ in range(9):
            world.clock.time += HOUR_US
            assert world.look() == 1
        assert world.continuations() == []
    world.clock.time += 7 * HOUR_US
    world.look()
    world.restart()
    done = world.go_on()
    assert (done.status, done.text, done.execution_id) == (Status.SUCCEEDED, "the report", begun.execution_id)
    assert (world.attempts(done), done.attempts) == (["succeeded"], 1)
    assert done.usage.input_tokens == 5
    assert world.runtime.invocations == []  # the agent was asked once, by the first process
    assert (world.look(), world.continuations()) == (0, [])
    with world.database.reading() as connection:
        (wait,) = world.hub.executions.waits.of(connection, done.execution_id)
        tick = world.hub.ticks.list(connection, trigger=CONTINUATION)[0]
    assert (wait.state, tick.verdict, tick.execution_id) == ("settled", Verdict.RAN, done.execution_id)
    assert done.duration_seconds >= DAY


def test_looks_come_less_and_less_often(world: World) -> None:
    world.execute(invocation())
    looks = 0
    for _ in range(HOUR_US // 1_000_000 // 10):
        world.clock.time += 10_000_000
        looks += world.look()
    assert 60 <= looks <= 90


def test_a_second_run_neither_asks_again_nor_goes_on_before_the_end(world: World) -> None:
    asked = invocation()
    begun = world.execute(asked, run_id="first")
    again = world.execute(asked, run_id="second", parent_run_id="first", resumes=True)
    other = world.execute(asked, run_id="third")
    assert [again.status, other.status] == [Status.WAITING, Status.WAITING]
    assert other.deduplicated_into == begun.execution_id
    assert len(world.runtime.invocations) == 1


def test_a_wait_past_its_deadline_is_a_timeout_and_cancelled_there(world: World) -> None:
    world.config = FakeConfig.model_validate({"works_for": 10 * DAY})
    world.restart()
    begun = world.execute(invocation())
    world.clock.time += 49 * HOUR_US
    world.look()
    done = world.go_on()
    assert (done.status, done.error_class) == (Status.FAILED, ErrorClass.TIMEOUT)
    assert len(world.runtime.cancelled) == 1
    assert "cancel_call" in world.kinds(begun)
    assert world.attempts(done) == ["failed"]


def test_a_failure_there_is_retried_by_the_policy_in_the_continuation(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, RuntimeFailure(ErrorClass.SERVER, "it broke there"), "second answer")
    begun = world.execute(invocation())
    clock.time += DAY * 1_000_000
    world.look()
    waiting = world.go_on()
    assert (waiting.status, world.attempts(waiting)) == (Status.WAITING, ["failed", "running"])
    clock.time += DAY * 1_000_000 - HOUR_US
    world.look()
    assert world.continuations() == []
    clock.time += 2 * HOUR_US
    world.look()
    done = world.go_on()
    # The total limit of two days counts from the beginning: the second one came too late.
    assert (done.status, done.error_class) == (Status.FAILED, ErrorClass.TIMEOUT)
    assert done.execution_id == begun.execution_id


def test_a_lost_continuation_is_asked_for_again(world: World) -> None:
    begun = world.execute(invocation())
    world.clock.time += 25 * HOUR_US
    world.look()
    (tick,) = world.continuations()
    with world.database.transaction() as connection:  # its run was killed after it had taken the execution over
        world.hub.executions.admit(
            connection,
            invocation_of(tick, TASK, "", None),
            RunRef(run_id="killed", resumes=True, continues=tick.occurrence),
            dedupe_key=None,
            trace_id="0" * 32,
        )
        world.hub.ticks.decide(
            connection,
            tick.task_key,
            CONTINUATION,
            tick.occurrence,
            Verdict.RAN,
            run_id="killed",
            execution_id=begun.execution_id,
        )
        assert world.hub.executions.close_lost(connection, begun.execution_id, "lost") is False
    assert world.look() == 1
    done = world.go_on()
    assert (done.status, world.attempts(done)) == (Status.SUCCEEDED, ["succeeded"])


def test_a_continuation_that_cannot_be_launched_is_asked_for_again(world: World) -> None:
    world.execute(invocation())
    world.clock.time += 25 * HOUR_US
    world.look()
    (tick,) = world.continuations()
    with world.database.transaction() as connection:
        world.hub.ticks.decide(
            connection, tick.task_key, CONTINUATION, tick.occurrence, Verdict.LAUNCH_FAILED, reason="no such job"
        )
    for _ in range(4):
        world.clock.time += 31_000_000
        world.look()
    assert world.go_on().status is Status.SUCCEEDED


@pytest.mark.parametrize("handed_over", [True, False])
def test_a_killed_run_is_a_wait_if_its_handle_was_kept(database: Database, clock: ManualClock, handed_over: bool) -> None:
    world = World(database, clock, "done", works_for=60)
    hub, asked = world.hub, invocation()
    died = Died()
    steps = [Handle(id='[0, 0, ""]', poll_after=1.0), died] if handed_over else [died]
    with pytest.raises(Died):
        hub.runner.execute(asked, TASK, Agent("worker", [Node("main", ScriptedRuntime(steps))]), run=RunRef(run_id="r"))
    with database.transaction() as connection:
        stored = hub.executions.of_run(connection, "r", TASK.key)
        assert stored is not None
        assert stored.status is Status.RUNNING
        assert hub.executions.close_lost(connection, stored.id, "its process was lost") is not handed_over
        after = hub.executions.get(connection, stored.id)
    assert after is not None
    if not handed_over:
        assert (after.status, after.error_class) == (Status.FAILED, ErrorClass.UNKNOWN_OUTCOME)
        return
    assert after.status is Status.WAITING
    world.look()
    done = world.go_on()
    assert (done.status, done.text, world.attempts(done)) == (Status.SUCCEEDED, "done", ["succeeded"])


def test_a_stream_that_breaks_off_after_the_handle_is_no_unknown_outcome(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, "done", works_for=60)
    broken = RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, "the connection broke")
    spent = UsageReport(usage=Usage(input_tokens=3), model="m")
    runtime = ScriptedRuntime([Handle(id='[0, 0, ""]', poll_after=1.0), spent, broken])
    begun = world.hub.runner.execute(invocation(), TASK, Agent("worker", [Node("main", runtime)]), run=RunRef(run_id="r"))
    assert begun.status is Status.WAITING
    clock.time += 2_000_000
    world.look()
    done = world.go_on()
    assert (done.text, done.usage.input_tokens) == ("done", 3)


def test_cancelling_a_waiting_execution_reaches_the_agent(world: World) -> None:
    begun = world.execute(invocation())
    with world.database.transaction() as connection:
        assert world.hub.executions.cancel(connection, begun.execution_id, "not needed any more")
        stored = world.hub.executions.get(connection, begun.execution_id)
    assert stored is not None
    assert stored.status is Status.CANCELLED
    assert (world.look(), world.look()) == (1, 0)
    assert len(world.runtime.cancelled) == 1
    assert (world.attempts(begun), world.kinds(begun)[-1]) == (["cancelled"], "cancel_call")
    world.clock.time += 30 * HOUR_US
    assert (world.look(), world.continuations()) == (0, [])


def test_a_part_of_a_run_waits_in_its_process(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, "done", works_for=60)
    done = world.execute(invocation(item="shard-1"))
    assert (done.status, done.text) == (Status.SUCCEEDED, "done")
    assert world.look() == 0


@pytest.mark.parametrize(
    ("answer", "data", "text"), [("approve", None, "Dear Kim"), ("edit", "Hi Kim", "Hi Kim"), ("reject", None, None)]
)
def test_people_decide_about_a_draft(
    database: Database, clock: ManualClock, answer: str, data: str | None, text: str | None
) -> None:
    world = World(database, clock, [Question(text="Send it?", draft="Dear Kim")], works_for=None)
    begun = world.execute(invocation())
    assert begun.status is Status.WAITING
    assert world.look() == 0
    with database.transaction() as connection:
        (asked,) = world.hub.human_tasks.of_execution(connection, begun.execution_id)
        assert (asked.subject, asked.options, asked.context) == ("approval", ("approve", "edit", "reject"), {"draft": "Dear Kim"})
        world.hub.human_tasks.answer(connection, asked.id, answer, actor="kim", data=data, comment="too long")
    world.restart()
    assert world.look() == 1
    done = world.go_on()
    if text is None:
        assert (done.status, done.error_class, done.error_message) == (
            Status.FAILED,
            ErrorClass.REFUSED,
            "rejected by kim: too long",
        )
    else:
        assert (done.status, done.text) == (Status.SUCCEEDED, text)
    assert len(world.attempts(done)) == 1


def test_a_question_of_an_agent_has_its_answer_as_result(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, [Question(text="Which region?", options=("emea", "apac"))], works_for=None)
    begun = world.execute(invocation())
    with database.transaction() as connection:
        (asked,) = world.hub.human_tasks.of_execution(connection, begun.execution_id)
        world.hub.human_tasks.answer(connection, asked.id, "apac", actor="kim")
    world.look()
    assert world.go_on().text == "apac"


def test_a_question_that_nobody_answers_is_a_timeout(database: Database, clock: ManualClock) -> None:
    world = World(database, clock, [Question(text="Which region?")], works_for=None)
    world.execute(invocation())
    clock.time += 49 * HOUR_US
    world.look()
    done = world.go_on()
    assert (done.error_class, done.error_message) == (
        ErrorClass.TIMEOUT,
        "waited for people to answer until the limit of all attempts together",
    )


class Died(BaseException):
    """As good as kill -9: nothing that would tidy up runs."""


def test_what_no_run_can_go_on_with_ends(world: World, clock: ManualClock) -> None:
    begun = world.execute(invocation())
    clock.time += 25 * HOUR_US
    world.look()
    requested, since = 0, clock.now()
    while (stored := world.stored(begun)).status is Status.WAITING:
        for tick in world.continuations():  # its job is not there any more
            requested += 1
            with world.database.transaction() as connection:
                of = (tick.task_key, CONTINUATION, tick.occurrence)
                world.hub.ticks.decide(connection, *of, Verdict.LAUNCH_FAILED, reason="there is no such job")
        clock.time += 300_000_000
        world.look()
    assert (stored.status, stored.error_class) == (Status.FAILED, "internal")
    assert "there is no such job" in (stored.error_message or "")
    assert requested == 60
    assert 48 * HOUR_US < clock.now() - since < 72 * HOUR_US
    assert world.look() == 0
    assert world.attempts(begun) == ["lost"]
