from collections.abc import Iterator, Mapping
from typing import cast

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.run_lane import RunLane
from agent_pipelines.engine.tick import Tick
from agent_pipelines.store.database import Database
from agent_pipelines_tests.engine.keeping import SECOND, TASK, Keeper, every


class Dagster:
    """Remembers what was launched."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.error: Exception | None = None

    def launch(self, job_name: str, launch: Launch, *, run_id: str, tags: Mapping[str, str]) -> str:
        if self.error is not None:
            raise self.error
        self.launched.append(run_id)
        return run_id

    def exists(self, run_id: str) -> bool:
        return run_id in self.launched


class Case(Keeper):
    def __init__(self, database: Database, clock: ManualClock) -> None:
        super().__init__(database, clock)
        self.dagster = Dagster()
        self.lanes = [self.lane()]

    def lane(self) -> RunLane:
        gateway = cast("DagsterGateway", self.dagster)
        return RunLane(self.database, self.ticks, self.clock, lambda: gateway)

    def take(self) -> str:
        """Give the first tick its run, as a daemon that is killed before it launches it."""
        self.put(every(5, overlap="parallel"))
        self.look(5)
        with self.database.transaction() as connection:
            (tick,) = self.ticks.take(connection, lane="run", until=self.clock.now(), limit=1)
        assert tick.run_id is not None
        return tick.run_id

    def look_after(self, seconds: float) -> int:
        self.clock.time = self.start + round(seconds * SECOND)
        return self.lanes[-1].look_after()

    def settle(self) -> None:
        for lane in self.lanes:
            lane.close()

    def claim(self, occurrence: str, origin: Origin = Origin.SCHEDULE) -> Tick:
        with self.database.transaction() as connection:
            now = self.clock.now()
            run_id = new_id()
            tick, _ = self.ticks.claim(connection, TASK, "t", occurrence, origin=origin, due_at=now, run_id=run_id)
        return tick


@pytest.fixture
def case(database: Database, clock: ManualClock) -> Iterator[Case]:
    case = Case(database, clock)
    yield case
    case.settle()


def test_what_is_due_is_launched_once(case: Case) -> None:
    case.put(every(5, overlap="parallel"))
    case.look(5)
    assert case.lanes[0].launch_due() == 1
    assert case.lanes[0].launch_due() == 0
    case.settle()
    assert case.dagster.launched == [case.all()[0].run_id]


def test_what_another_daemon_had_in_hand_is_launched_at_the_first_look(case: Case) -> None:
    run_id = case.take()
    assert case.look_after(5.5) == 1
    case.settle()
    assert case.dagster.launched == [run_id]


def test_what_is_forgotten_later_is_launched_half_a_minute_after_it_was_to_begin(case: Case) -> None:
    case.look_after(0)
    run_id = case.take()
    assert case.look_after(20) == 0
    assert case.look_after(35) == 0
    assert case.look_after(36) == 0, "it looks every ten seconds"
    assert case.look_after(46) == 1
    case.settle()
    assert case.dagster.launched == [run_id]


def test_what_somebody_is_launching_on_demand_is_left_to_him(case: Case) -> None:
    case.claim("1", Origin.ON_DEMAND)
    assert case.look_after(1) == 0
    assert case.look_after(31) == 1


def test_a_long_queue_in_dagster_does_not_hide_what_was_forgotten(case: Case) -> None:
    case.dagster.launched += [cast("str", case.claim(str(number)).run_id) for number in range(600)]
    case.clock.time += SECOND
    forgotten = case.claim("last")
    assert case.look_after(2) == 1
    case.settle()
    assert case.dagster.launched[-1] == forgotten.run_id


def test_a_launch_that_fails_is_tried_again_and_one_that_cannot_succeed_has_its_verdict(case: Case) -> None:
    case.take()
    case.dagster.error = RuntimeError("the code server is away")
    assert case.look_after(6) == 1
    case.settle()
    assert case.all()[0].verdict is None
    case.lanes.append(case.lane())
    case.dagster.error = DefinitionError("no job is named 'app__job'")
    assert case.look_after(7) == 1
    case.settle()
    tick = case.all()[0]
    assert (tick.verdict, tick.reason) == (Verdict.LAUNCH_FAILED, "no job is named 'app__job'")
