import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import TZPATH, ZoneInfo, available_timezones

import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock, to_microseconds
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.core.trigger import After, AssetUpdate, At, Cron, Event, Interval, Trigger, trigger_name
from agent_pipelines.engine.due import due_between
from agent_pipelines.engine.tick import NewTick
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.hub import Hub
from agent_pipelines.insight.books import Account, Books
from agent_pipelines.insight.witness import Witness
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import ticks

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
JOB: TaskKey = ("default", "app", "job")
EVERY_MINUTE = Interval(every=Duration(60))


class Simulation:
    """A clock that is moved by hand, with the timekeeper that claims what is due and a reconciler that decides it."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.clock = clock
        self.hub = Hub(database, clock)
        self.start = clock.time
        self.timekeeper = Timekeeper(database, self.hub.triggers, self.hub.ticks, self.hub.executions, clock)

    def put(
        self, trigger: Trigger, state: Literal["on", "off", "paused"] = "on", *, task: TaskKey = JOB, lane: Any = "run"
    ) -> None:
        with self.hub.database.transaction() as connection:
            self.hub.triggers.put(connection, task, trigger, source="declared", state=state, actor="kim", lane=lane)

    def remove(self, name: str, *, task: TaskKey = JOB) -> None:
        with self.hub.database.transaction() as connection:
            self.hub.triggers.remove(connection, task, name, actor="kim")

    def work(self, seconds: float, *, step: float = 15) -> None:
        """Let time pass while the clock is kept, and everything that is claimed be decided."""
        end = self.clock.time + round(seconds * SECOND)
        while self.clock.time < end:
            self.clock.time = min(end, self.clock.time + round(step * SECOND))
            self.timekeeper.look()
            self.decide_all()

    def sleep(self, seconds: float) -> None:
        """Let time pass while nobody keeps it."""
        self.clock.time += round(seconds * SECOND)

    def decide_all(self) -> None:
        with self.hub.database.transaction() as connection:
            for tick in self.hub.ticks.open(connection, limit=10_000):
                self.hub.ticks.decide(
                    connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.RAN, run_id=new_id(), execution_id=new_id()
                )

    def claim(self, trigger: str, occurrence: str, origin: Origin, *, due_at: int | None = None, task: TaskKey = JOB) -> str:
        with self.hub.database.transaction() as connection:
            at = self.clock.time if due_at is None else due_at
            return self.hub.ticks.claim(connection, task, trigger, occurrence, origin=origin, due_at=at)[0].id

    def delete(self, *conditions: sa.ColumnElement[bool]) -> int:
        with self.hub.database.transaction() as connection:
            return connection.execute(sa.delete(ticks).where(*conditions)).rowcount

    def books(self, since: int | None = None, until: int | None = None, **chosen: Any) -> Books:
        return self.hub.witness.books(self.start if since is None else since, until, **chosen)

    def account(self, trigger: str = "interval", *, task: str = "job") -> Account:
        return next(each for each in self.books().accounts if (each.trigger, each.task_key[2]) == (trigger, task))


@pytest.fixture
def simulation(database: Database, clock: ManualClock) -> Simulation:
    return Simulation(database, clock)


def test_books_that_close(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.put(
        Cron(cron="*/20 0 * * * *", seconds="first", timezone="Europe/Berlin"), task=("default", "app", "other"), lane="burst"
    )
    simulation.put(At(at="2026-01-01T00:30:00Z"))
    simulation.work(HOUR / SECOND + 10)
    books = simulation.books()
    assert books.closes
    assert books.problems == []
    assert books.watched == 3
    assert [(each.task_key[2], each.trigger, each.kind, each.due, each.verdicts) for each in books.accounts] == [
        ("job", "at", "at", 1, {"ran": 1}),
        ("job", "interval", "interval", 60, {"ran": 60}),
        ("other", "cron", "cron", 3, {"ran": 3}),
    ]
    assert (books.total.due, books.total.not_yet) == (64, 0)
    assert simulation.books(workspace="other").accounts == []
    assert simulation.books(task="other").total.due == 3


def test_what_was_due_a_moment_ago_may_still_come(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.work(60)
    simulation.sleep(60 + 4)
    assert (simulation.account().due, simulation.account().not_yet, simulation.books().closes) == (1, 1, True)
    simulation.sleep(2)
    assert (simulation.account().due, simulation.account().gaps, simulation.books().closes) == (2, 1, False)


def test_ticks_that_are_gone_are_gaps(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.work(600)
    start = simulation.start
    gone = [start + number * MINUTE for number in (3, 4, 7)]
    assert simulation.delete(ticks.c.due_at.in_(gone)) == 3
    books = simulation.books()
    assert not books.closes
    assert books.problems == ["3 due without a tick"]
    assert [(gap.path, gap.trigger, gap.first, gap.last, gap.instants) for gap in books.gaps] == [
        ("app/job", "interval", gone[0], gone[1], 2),
        ("app/job", "interval", gone[2], gone[2], 1),
    ]
    total = books.total
    assert total.due == 10 == sum(total.verdicts.values()) + total.open + total.gaps
    assert simulation.books(start + 8 * MINUTE).closes
    assert simulation.books(until=start + 2 * MINUTE).closes


def test_a_trigger_owes_nothing_while_it_is_off_paused_or_removed(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.work(150)
    for state in ("off", "paused"):
        simulation.put(EVERY_MINUTE, state)
        simulation.work(150)
        simulation.put(EVERY_MINUTE)
        simulation.work(150)
    simulation.remove("interval")
    simulation.work(150)
    assert simulation.books().closes
    assert simulation.account().due == 6
    assert simulation.account().verdicts == {"ran": 6}


def test_an_edit_holds_from_its_instant_on(simulation: Simulation) -> None:
    simulation.put(Cron(cron="0 * * * *"))
    simulation.work(3 * HOUR / SECOND, step=300)
    simulation.put(Cron(cron="15 * * * *"))
    simulation.work(2 * HOUR / SECOND, step=300)
    simulation.put(Interval(name="cron", every=Duration(600)))
    simulation.work(HOUR / SECOND, step=300)
    books = simulation.books()
    assert books.closes
    assert [(each.kind, each.due) for each in books.accounts] == [("interval", 3 + 2 + 6)]
    simulation.delete(ticks.c.due_at == simulation.start + 3 * HOUR + 15 * MINUTE)
    assert [gap.first for gap in simulation.books().gaps] == [simulation.start + 3 * HOUR + 15 * MINUTE]


def test_ticks_that_nobody_expects(simulation: Simulation) -> None:
    simulation.put(Cron(cron="0 * * * *"), lane="burst")
    simulation.work(HOUR / SECOND + 60)
    extra = simulation.clock.time
    simulation.claim("cron", str(extra), Origin.SCHEDULE)
    simulation.decide_all()
    simulation.clock.time = simulation.start + 2 * HOUR - SECOND // 2
    simulation.timekeeper.look()  # claims ahead, as for bursts
    simulation.put(Cron(cron="30 * * * *"), lane="burst")
    simulation.work(60)
    account = simulation.account("cron")
    assert (account.due, account.verdicts, account.extras) == (1, {"ran": 1}, 1)
    assert simulation.books().closes


def test_two_ticks_of_one_instant(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.work(60)
    simulation.claim("interval", "another name", Origin.SCHEDULE, due_at=simulation.start + MINUTE)
    simulation.decide_all()
    assert (simulation.account().due, simulation.account().doubles) == (1, 1)
    assert simulation.books().problems == ["1 twice"]


def test_what_was_missed_while_nobody_kept_the_time_is_accounted_for(simulation: Simulation) -> None:
    simulation.put(Interval(every=Duration(60), catch_up="none"))
    simulation.work(120)
    simulation.sleep(3_006)
    assert simulation.account().gaps == 50  # so far nobody has written them down
    simulation.work(60)
    assert simulation.books().closes
    assert simulation.account().verdicts == {"ran": 3, "missed": 50}


def test_open_ticks_are_in_order_until_they_are_old(simulation: Simulation) -> None:
    simulation.put(Interval(every=Duration(300), jitter=Duration(120), overlap="parallel"))
    simulation.sleep(301)
    simulation.timekeeper.look()
    opened = simulation.account().open_since
    assert opened is not None
    assert simulation.start + 300 * SECOND <= opened < simulation.start + 421 * SECOND
    simulation.clock.time = opened + 600 * SECOND
    assert (simulation.account().open, simulation.account().overdue) == (1, 0)
    simulation.clock.time += 1
    assert simulation.account().overdue == 1
    assert "1 open for too long" in simulation.books().problems
    witness = simulation.hub.witness
    patient = Witness(
        simulation.hub.database,
        simulation.hub.triggers,
        simulation.hub.ticks,
        simulation.hub.inbox,
        simulation.hub.executions,
        simulation.clock,
        patience=900,
    )
    until = simulation.start + 301 * SECOND
    assert (patient.books(simulation.start, until).closes, witness.books(simulation.start, until).closes) == (True, False)


def test_a_tick_that_is_queued_waits_for_another_one(simulation: Simulation) -> None:
    simulation.put(Interval(every=Duration(60), overlap="queue"))
    simulation.sleep(61)
    simulation.timekeeper.look()
    simulation.sleep(60)
    simulation.timekeeper.look()
    simulation.sleep(700)
    books = simulation.books(until=simulation.start + 150 * SECOND)
    assert (books.total.open, books.total.overdue) == (2, 1)


def test_each_event_that_matches_is_expected(simulation: Simulation) -> None:
    simulation.put(Event(event="push", match={"branch": "main", "force": True}))
    simulation.put(Event(name="off", event="push"), "off")
    simulation.sleep(10)
    hub = simulation.hub

    def send(payload: Mapping[str, Any]) -> str:
        simulation.sleep(1)
        with hub.database.transaction() as connection:
            return hub.inbox.put(connection, "push", payload)[0]

    for payload in ({"branch": "main", "force": 1}, {"branch": "dev", "force": True}, {"branch": "main"}):
        send(payload)
    seen = send({"branch": "main", "force": True})
    simulation.claim("event", seen, Origin.EVENT)
    unseen_at = simulation.clock.time + SECOND
    send({"branch": "main", "force": True})
    assert (simulation.account("event").due, simulation.account("event").not_yet) == (1, 1)
    simulation.sleep(121)
    assert (simulation.account("event").due, simulation.account("event").gaps) == (2, 1)
    assert [(gap.trigger, gap.first) for gap in simulation.books().gaps] == [("event", unseen_at)]
    simulation.put(Event(event="push", match={"branch": "main", "force": True}), "off")
    simulation.sleep(1)
    send({"branch": "main", "force": True})
    simulation.sleep(121)
    assert simulation.account("event").gaps == 1


SPEC = TaskSpec(name="job", application="app", intent="Work", agent="a", prompt="p")
FOLLOWER: TaskKey = ("default", "app", "follower")


def test_each_tick_of_the_upstream_is_expected_to_be_followed(simulation: Simulation) -> None:
    follow = After(task="job", offset=Duration(900), wait_at_most=Duration(3_600))
    simulation.put(follow, task=FOLLOWER)
    simulation.sleep(1)
    first, second, third = (
        simulation.claim("cron", str(number), Origin.SCHEDULE, due_at=simulation.start + number * MINUTE) for number in (1, 2, 3)
    )
    for tick, number in ((first, 1), (second, 2)):
        with simulation.hub.database.transaction() as connection:
            reason = {"verdict": Verdict.SKIPPED, "reason": "nothing to do"}
            simulation.hub.ticks.decide(connection, JOB, "cron", str(number), **reason)
        if tick == first:
            simulation.claim("after", tick, Origin.AFTER, due_at=simulation.start + 16 * MINUTE, task=FOLLOWER)
    simulation.clock.time = simulation.start + 18 * MINUTE
    account = simulation.account("after", task="follower")
    assert (account.due, account.open, account.gaps, account.not_yet) == (1, 1, 0, 2)
    simulation.clock.time = simulation.start + 20 * MINUTE
    assert simulation.account("after", task="follower").gaps == 1  # the second: its upstream is final
    assert [gap.first for gap in simulation.books().gaps] == [simulation.start + 17 * MINUTE]
    simulation.clock.time = simulation.start + 90 * MINUTE
    assert simulation.account("after", task="follower").gaps == 2  # the third: it has waited long enough
    simulation.claim("after", third, Origin.AFTER, due_at=simulation.start + 18 * MINUTE, task=FOLLOWER)
    assert simulation.account("after", task="follower").gaps == 1


def test_an_upstream_that_has_run_is_final_when_its_execution_is(simulation: Simulation) -> None:
    hub, start = simulation.hub, simulation.start
    simulation.put(After(task="app/job"), task=FOLLOWER)
    due_at = start + MINUTE
    simulation.claim("cron", "1", Origin.SCHEDULE, due_at=due_at)
    invocation = Invocation(
        application="app",
        task="job",
        spec_hash="",
        trigger="cron",
        origin=Origin.SCHEDULE,
        occurrence="1",
        due_at=due_at,
        logical_at=due_at,
    )
    with hub.database.transaction() as connection:
        spec_hash = hub.ledger.specs.put(connection, SPEC)
        invocation = invocation.model_copy(update={"spec_hash": spec_hash})
        admission = hub.executions.admit(connection, invocation, RunRef(run_id="r"), dedupe_key=None, trace_id="0" * 32)
        execution = admission.execution.id
        hub.ticks.decide(connection, JOB, "cron", "1", Verdict.RAN, run_id="r", execution_id=execution)
    simulation.clock.time = start + HOUR
    assert simulation.account("after", task="follower").not_yet == 1
    with hub.database.transaction() as connection:
        hub.executions.close(connection, execution, Status.SUCCEEDED)
    assert simulation.account("after", task="follower").not_yet == 1
    simulation.sleep(121)
    assert simulation.account("after", task="follower").gaps == 1


def test_a_follower_that_is_switched_off_before_its_upstream_is_final_owes_nothing(simulation: Simulation) -> None:
    simulation.put(After(task="job", wait_at_most=Duration(60)), task=FOLLOWER)
    simulation.claim("cron", "1", Origin.SCHEDULE, due_at=simulation.start + SECOND)
    simulation.sleep(30)
    simulation.put(After(task="job", wait_at_most=Duration(60)), "off", task=FOLLOWER)
    simulation.sleep(HOUR / SECOND)
    assert [each for each in simulation.books().accounts if each.trigger == "after"] == []


def test_what_cannot_be_expected_counts_as_found(simulation: Simulation) -> None:
    simulation.put(AssetUpdate(asset="orders"))
    simulation.sleep(5)
    simulation.claim("asset", "17", Origin.ASSET)
    simulation.claim("on_demand", "run", Origin.ON_DEMAND)
    simulation.claim("schedule_of_dagster", "1", Origin.SCHEDULE)  # a trigger that no daemon of ours has seen
    simulation.decide_all()
    books = simulation.books()
    assert books.closes
    assert {each.trigger: (each.kind, each.due, each.found) for each in books.accounts} == {
        "asset": ("asset", 1, 1),
        "on_demand": ("on_demand", 1, 1),
        "schedule_of_dagster": ("schedule", 1, 1),
    }
    assert books.total.extras == 0


def test_a_clock_that_was_set_back_changes_nothing(simulation: Simulation) -> None:
    simulation.put(EVERY_MINUTE)
    simulation.work(600)
    simulation.clock.time -= 300 * SECOND
    simulation.work(900)
    assert simulation.books().closes
    assert simulation.account().due == 20


def _zones() -> list[str]:
    """A zone for each of the different zone files."""
    zones: dict[bytes, str] = {}
    for zone in sorted(available_timezones()):
        files = [Path(place) / zone for place in TZPATH]
        file = next((each for each in files if each.is_file()), None)
        zones.setdefault(zone.encode() if file is None else hashlib.sha256(file.read_bytes()).digest(), zone)
    return list(zones.values())


def _rules(zones: list[str], start: datetime, days: int) -> dict[tuple[object, ...], str]:
    """A zone for each of the different ways in which clocks go in a period."""
    found: dict[tuple[object, ...], str] = {}
    for zone in zones:
        info = ZoneInfo(zone)
        found.setdefault(tuple((start + timedelta(hours=hour)).astimezone(info).utcoffset() for hour in range(24 * days)), zone)
    return found


@pytest.mark.parametrize("month", [3, 10])
def test_a_month_around_a_clock_change_closes_for_every_zone(simulation: Simulation, month: int) -> None:
    start = datetime(2026, month, 10, tzinfo=UTC)
    zones = list(_rules(_zones(), start, 31).values())
    begin = simulation.clock.time = to_microseconds(start)
    end = begin + 31 * DAY
    new: list[NewTick] = []
    for zone in zones:
        task: TaskKey = ("default", "app", zone.lower())
        for trigger in (
            Cron(name="wall", cron="30 0-3 * * *", timezone=zone),
            Cron(name="elapsed", cron="*/30 2 * * *", timezone=zone),
            Cron(name="seconds", cron="0,30 59 23 * * mon-fri", seconds="first", timezone=zone),
        ):
            simulation.put(trigger, task=task)
            values: dict[str, Any] = {"lane": "run", "priority": 0, "spec_hash": None, "inputs": {}}
            decided = {"verdict": Verdict.MISSED, "reason": "a simulation"}
            new += [
                NewTick(task, trigger_name(trigger), "r", due_at=at, logical_at=at, begins_at=at, **values, **decided)
                for at in due_between(trigger, begin, end)
            ]
    with simulation.hub.database.transaction() as connection:
        simulation.hub.ticks.claim_many(connection, new)
    simulation.clock.time = end + MINUTE
    books = simulation.books(begin, end)
    assert books.closes, books.gaps[:5]
    assert (books.total.due, books.total.extras, books.watched) == (len(new), 0, 3 * len(zones))
    hole = new[len(new) // 2]
    simulation.delete(ticks.c.task == hole.task[2], ticks.c.trigger == hole.trigger, ticks.c.due_at == hole.due_at)
    assert [(gap.task_key, gap.first) for gap in simulation.books(begin, end).gaps] == [(hole.task, hole.due_at)]
