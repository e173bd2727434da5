from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.reconciler import Reconciler
from agent_pipelines.engine.tick import REPAIR, NewTick, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database

TASK = TaskSpec(name="report", application="app", intent="Report", agent="writer", prompt="Write", retry={"resumes": 0})  # type: ignore[arg-type]
MINUTE = 60_000_000


@dataclass
class Run:
    run_id: str
    status: str = "STARTED"

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Runs:
    """What Dagster knows, and what it was asked."""

    of_ticks: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])
    known: dict[str, Run] = field(default_factory=dict[str, Run])
    asked: int = 0

    def runs_of_tick(self, tick: Tick) -> Sequence[Run]:
        self.asked += 1
        return self.of_ticks.get(tick.occurrence, [])

    def run(self, run_id: str) -> Run | None:
        self.asked += 1
        return self.known.get(run_id)


class World:
    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.hub = Hub(database, clock)
        self.clock = clock
        self.runs = Runs()

    def reconcile(self, *, after_minutes: float = 0) -> list[str]:
        self.clock.time += round(after_minutes * MINUTE)
        hub = self.hub
        return Reconciler(
            hub.database, hub.ticks, hub.daemons, hub.executions, self.runs, self.clock, hub.continuations
        ).reconcile()

    def claim(self, occurrence: str, *, trigger: str = "cron", begins_at: int | None = None, **inputs: object) -> Tick:
        with self.hub.database.transaction() as connection:
            tick, _ = self.hub.ticks.claim(
                connection,
                TASK.key,
                trigger,
                occurrence,
                origin=Origin.SCHEDULE,
                due_at=5,
                begins_at=begins_at,
                inputs=inputs,  # pyright: ignore[reportArgumentType]
            )
        return tick

    def admit(self, occurrence: str, run_id: str, *, resumes: bool = False) -> str:
        invocation = Invocation(
            application="app",
            task="report",
            spec_hash=TASK.spec_hash,
            trigger="cron",
            origin=Origin.SCHEDULE,
            occurrence=occurrence,
            due_at=5,
            logical_at=5,
        )
        with self.hub.database.transaction() as connection:
            self.hub.ledger.specs.put(connection, TASK)
            run = RunRef(run_id=run_id, resumes=resumes)
            admission = self.hub.executions.admit(connection, invocation, run, dedupe_key=None, trace_id="t")
        return admission.execution.id

    def tick(self, occurrence: str, trigger: str = "cron") -> Tick:
        with self.hub.database.reading() as connection:
            found = self.hub.ticks.find(connection, TASK.key, trigger, occurrence)
        assert found is not None
        return found

    def status(self, execution_id: str) -> Status:
        with self.hub.database.reading() as connection:
            found = self.hub.executions.get(connection, execution_id)
        assert found is not None
        return found.status


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


def test_nothing_open_asks_dagster_nothing(world: World) -> None:
    assert world.reconcile() == []


def test_a_tick_whose_run_never_came_has_failed_to_launch(world: World) -> None:
    world.claim("1")
    assert world.reconcile(after_minutes=10) == []
    assert world.reconcile(after_minutes=0.1) == ["tick cron:1 of app/report: no run came within 600 s"]
    assert world.tick("1").verdict is Verdict.LAUNCH_FAILED
    assert world.tick("1").reason == "no run came within 600 s"
    assert world.reconcile() == []


def test_a_tick_that_is_to_begin_later_than_it_was_due_has_patience_from_then_on(world: World) -> None:
    world.claim("1", begins_at=world.clock.now() + 20 * MINUTE)
    assert world.reconcile(after_minutes=25) == []
    assert world.reconcile(after_minutes=6) == ["tick cron:1 of app/report: no run came within 600 s"]


def test_a_tick_that_is_queued_behind_another_is_left_alone(world: World) -> None:
    waits = NewTick(TASK.key, "cron", "r", 6, 6, 6, "run", 0, None, {}, waits_for=world.claim("1").id)
    with world.hub.database.transaction() as connection:
        world.hub.ticks.claim_many(connection, [waits])
    assert len(world.reconcile(after_minutes=11)) == 1
    assert world.tick("6").verdict is None


def test_a_tick_that_has_no_run_yet_is_left_to_the_daemon_if_there_is_one(world: World) -> None:
    """One that has just begun to keep the time launches what was left over, however old that is."""
    world.claim("1")
    world.clock.time += 60 * MINUTE
    with world.hub.database.transaction() as connection:
        world.hub.daemons.beat(connection, "d1", "leader")
    assert world.reconcile() == []
    world.runs.of_ticks["1"] = [Run("r1", "FAILURE")]
    assert len(world.reconcile()) == 1


def test_a_tick_whose_run_is_queued_or_runs_is_left_alone(world: World) -> None:
    world.claim("1")
    world.runs.of_ticks["1"] = [Run("r2", "QUEUED"), Run("r1", "FAILURE")]
    assert world.reconcile(after_minutes=600) == []
    assert world.tick("1").verdict is None


def test_a_tick_whose_run_ended_without_admission_has_failed_to_launch(world: World) -> None:
    world.claim("1")
    world.runs.of_ticks["1"] = [Run("r2", "FAILURE"), Run("r1", "CANCELED")]
    assert world.reconcile(after_minutes=11) == [
        "tick cron:1 of app/report: run r2 ended (FAILURE) before it admitted an execution"
    ]


def test_a_verdict_that_comes_meanwhile_stays(world: World) -> None:
    tick = world.claim("1")

    class Meanwhile(Runs):
        def runs_of_tick(self, tick: Tick) -> Sequence[Run]:
            with world.hub.database.transaction() as connection:
                world.hub.ticks.decide(connection, TASK.key, "cron", "1", Verdict.SKIPPED, reason="gate")
            return []

    world.runs = Meanwhile()
    assert world.reconcile(after_minutes=11) == []
    assert world.tick(tick.occurrence).verdict is Verdict.SKIPPED


def test_an_execution_whose_run_ended_is_closed(world: World) -> None:
    execution_id = world.admit("1", "r1")
    world.runs.known["r1"] = Run("r1", "FAILURE")
    assert world.reconcile(after_minutes=0.5) == []
    message = "run r1 ended (FAILURE) while this execution was running: its process was lost"
    assert world.reconcile(after_minutes=1) == [f"execution {execution_id} of app/report: {message}"]
    assert world.status(execution_id) is Status.FAILED
    with world.hub.database.reading() as connection:
        stored = world.hub.executions.get(connection, execution_id)
    assert stored is not None
    assert stored.error_message == message
    assert world.reconcile() == []


def test_an_execution_whose_run_is_gone_is_closed(world: World) -> None:
    execution_id = world.admit("1", "r1")
    assert "run r1 is gone" in world.reconcile(after_minutes=2)[0]
    assert world.status(execution_id) is Status.FAILED


def test_an_execution_whose_run_goes_on_is_left_alone(world: World) -> None:
    execution_id = world.admit("1", "r1")
    world.runs.known["r1"] = Run("r1")
    assert world.reconcile(after_minutes=6_000) == []
    assert world.status(execution_id) is Status.RUNNING


def test_an_execution_that_ends_meanwhile_stays_as_it_ended(world: World) -> None:
    execution_id = world.admit("1", "r1")

    class Meanwhile(Runs):
        def run(self, run_id: str) -> Run | None:
            with world.hub.database.transaction() as connection:
                world.hub.executions.close(connection, execution_id, Status.SUCCEEDED)
            return None

    world.runs = Meanwhile()
    assert world.reconcile(after_minutes=2) == []
    assert world.status(execution_id) is Status.SUCCEEDED


def test_the_tick_of_a_repair_whose_run_did_its_work_is_no_failed_launch(world: World) -> None:
    """Nobody was left to note that the repair began: the follower's sensor is switched off."""
    execution_id = world.admit("1", "r1")
    with world.hub.database.transaction() as connection:
        world.hub.executions.close_lost(connection, execution_id, "lost")
    launch = Launch(
        task="app/report", trigger="cron", origin=Origin.SCHEDULE, occurrence="1", due_at=5, logical_at=5, resume=True
    )
    world.claim(execution_id, trigger=REPAIR, launch=launch.model_dump(mode="json"))
    assert world.admit("1", "r2", resumes=True) == execution_id
    world.runs.of_ticks[execution_id] = [Run("r2", "SUCCESS")]
    world.runs.known["r2"] = Run("r2")
    assert world.reconcile(after_minutes=11) == []
    repair = world.tick(execution_id, REPAIR)
    assert (repair.verdict, repair.run_id, repair.execution_id) == (Verdict.RAN, "r2", execution_id)


def test_one_faulty_look_at_dagster_does_not_undo_the_rest(world: World) -> None:
    for occurrence in ("1", "2"):
        world.claim(occurrence)

    class Faulty(Runs):
        def runs_of_tick(self, tick: Tick) -> Sequence[Run]:
            if tick.occurrence == "2":
                raise ConnectionError("Dagster's database is away")
            return []

    world.runs = Faulty()
    with pytest.raises(ConnectionError):
        world.reconcile(after_minutes=11)
    assert [world.tick(each).verdict for each in ("1", "2")] == [Verdict.LAUNCH_FAILED, None]
