from collections.abc import Mapping
from typing import cast

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.engine.burst_keeper import BurstKeeper, Lane
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.store.database import Database
from agent_pipelines_tests.engine.keeping import SECOND, Keeper, every

SETTINGS = BurstSettings(runs=2, in_flight=20, ahead=Duration(15), age=Duration(600))
LANE = Lane("default", SETTINGS, is_on=True)


class Dagster:
    """Remembers what was started; runs are over when the test says so."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.over: set[str] = set()
        self.not_started: set[str] = set()
        self.refuses = False

    def start(self, job_name: str, run_id: str, tags: Mapping[str, str]) -> None:
        if self.refuses:
            raise DefinitionError("no job of that name")
        self.started.append((job_name, run_id))

    def is_over(self, run_id: str) -> bool:
        return run_id in self.over

    def withdraw(self, run_id: str) -> bool:
        if run_id not in self.not_started:
            return False
        self.not_started.remove(run_id)
        self.over.add(run_id)
        return True


class Case(Keeper):
    def __init__(self, database: Database, clock: ManualClock) -> None:
        super().__init__(database, clock)
        self.dagster = Dagster()
        self.bursting = self.keeper()

    def keeper(self) -> BurstKeeper:
        gateway = cast("DagsterGateway", self.dagster)
        return BurstKeeper(self.database, self.triggers, self.ticks, self.bursts, self.clock, lambda: gateway)

    def succeed(self) -> None:
        """Let another daemon keep the bursts from now on."""
        self.bursting = self.keeper()

    def keep(self, seconds: float, lane: Lane = LANE) -> int:
        self.clock.time = self.start + round(seconds * SECOND)
        return self.bursting.keep([lane])

    def opened(self) -> str:
        """Let the burst that was launched last begin; returns its run."""
        run_id = self.dagster.started[-1][1]
        with self.database.transaction() as connection:
            self.bursts.open(connection, run_id, "default")
        return run_id

    def beat(self, run_id: str) -> None:
        with self.database.transaction() as connection:
            self.bursts.beat(connection, run_id, in_flight=0, done=0, failed=0)


@pytest.fixture
def case(database: Database, clock: ManualClock) -> Case:
    return Case(database, clock)


def test_a_burst_is_launched_before_something_is_due(case: Case) -> None:
    case.put(every(60), lane="burst")
    assert case.keep(44) == 0
    assert case.keep(46) == 1
    assert case.dagster.started[0][0] == "agent_pipelines__burst__default"
    assert case.keep(47) == 0, "one is on its way"


def test_nothing_is_launched_while_the_lane_is_switched_off(case: Case) -> None:
    case.put(every(60), lane="burst")
    assert case.keep(50, Lane("default", SETTINGS, is_on=False)) == 0


def test_a_large_backlog_gets_as_many_bursts_as_are_allowed(case: Case) -> None:
    for number in range(60):
        case.put(every(60), ("default", "app", f"job{number}"), lane="burst")
    case.look(59.5)
    assert case.keep(60) == 2


def test_a_burst_that_grows_old_has_its_successor_in_time(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    run_id = case.opened()
    case.clock.time = case.start + 580 * SECOND
    case.beat(run_id)
    assert case.keep(584) == 0
    case.beat(run_id)
    assert case.keep(586) == 1


def test_the_ticks_of_a_silent_burst_are_free_again(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    silent = case.opened()
    case.look(4.5)
    with case.database.transaction() as connection:
        (tick,) = case.ticks.take(connection, lane="burst", until=case.clock.now() + SECOND, limit=5, run_id=silent)
    assert case.keep(9) == 0
    assert case.keep(11) == 1, "another one takes its place"
    with case.database.transaction() as connection:
        (again,) = case.ticks.take(connection, lane="burst", until=case.clock.now(), limit=5, run_id="other")
    assert again.id == tick.id
    with case.database.reading() as connection:
        assert len(case.bursts.live(connection)) == 2, "it may wake up"
    case.dagster.over.add(silent)
    case.keep(12)
    with case.database.reading() as connection:
        assert [burst.run_id for burst in case.bursts.live(connection)] == [case.dagster.started[-1][1]]


def test_the_ticks_of_a_silent_burst_are_free_again_when_the_clock_was_set_back(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    silent = case.opened()
    case.look(4.5)
    with case.database.transaction() as connection:
        case.ticks.take(connection, lane="burst", until=case.clock.now() + SECOND, limit=5, run_id=silent)
    case.keep(-3_600)
    assert [tick.run_id for tick in case.all()] == [None]


def test_a_burst_whose_run_failed_before_it_began_is_replaced(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    case.dagster.over.add(case.dagster.started[0][1])
    case.keep(1)
    assert len(case.dagster.started) == 2


def test_a_launch_that_fails_is_tried_again_after_a_while(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.dagster.refuses = True
    assert case.keep(0) == 0
    case.dagster.refuses = False
    assert case.keep(1) == 0
    assert case.keep(6) == 1


def test_a_run_that_a_killed_daemon_created_and_did_not_start_is_withdrawn_at_once(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    run_id = case.dagster.started[0][1]
    case.dagster.not_started.add(run_id)
    assert case.keep(1) == 0, "this daemon has it in hand"
    case.succeed()
    assert case.keep(2) == 1
    assert case.dagster.over == {run_id}
    with case.database.reading() as connection:
        assert [burst.run_id for burst in case.bursts.live(connection)] == [case.dagster.started[1][1]]


def test_a_run_that_a_killed_daemon_left_without_a_process_is_not_waited_for_as_long_as_an_own_one(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    assert case.keep(16) == 0
    case.succeed()
    assert case.keep(16.5) == 1
    assert case.keep(17) == 0, "the own one is on its way"


def test_a_burst_that_was_taken_for_dead_and_works_is_looked_after_again(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    run_id = case.opened()
    case.dagster.over.add(run_id)
    case.keep(11)
    case.beat(run_id)
    case.look(14.5)
    with case.database.transaction() as connection:
        taken = case.ticks.take(connection, lane="burst", until=case.clock.now() + SECOND, limit=5, run_id=run_id)
    case.keep(26)
    with case.database.transaction() as connection:
        again = case.ticks.take(connection, lane="burst", until=case.clock.now(), limit=5, run_id="other")
    assert [tick.id for tick in again] == [tick.id for tick in taken]


def test_a_burst_whose_launch_failed_and_that_begins_all_the_same_is_looked_after(case: Case) -> None:
    """A launcher may report an error for a process that it has started."""
    case.put(every(5), lane="burst")
    case.dagster.refuses = True
    case.keep(0)
    with case.database.transaction() as connection:
        (burst,) = case.bursts.latest(connection, "default", limit=1)
        assert burst.closed_at is not None
        case.bursts.open(connection, burst.run_id, "default")
        assert [each.run_id for each in case.bursts.live(connection)] == [burst.run_id]


def test_ticks_that_a_closed_burst_has_taken_are_free_again(case: Case) -> None:
    case.put(every(5), lane="burst")
    case.keep(0)
    woken = case.opened()
    with case.database.transaction() as connection:
        case.bursts.close(connection, woken)
    case.look(4.5)
    with case.database.transaction() as connection:
        (tick,) = case.ticks.take(connection, lane="burst", until=case.clock.now() + SECOND, limit=5, run_id=woken)
    case.keep(11)
    with case.database.transaction() as connection:
        (again,) = case.ticks.take(connection, lane="burst", until=case.clock.now(), limit=5, run_id="other")
    assert again.id == tick.id
