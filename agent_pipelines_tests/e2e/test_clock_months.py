"""A month around each clock change, for a zone of each set of rules: everything that was due has its tick, and none has two."""

from datetime import UTC, datetime

from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Cron
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.engine.clock_changes import Change, offset_at, rules_of_all_zones

SECOND = 1_000_000
DAY = 86_400 * SECOND
HOUR = 3_600 * SECOND
DAILY, OFTEN = "daily", "often"
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


class Year:
    """A clock that keeps the time of many triggers, from one instant at which something is due to the next."""

    def __init__(self, database: Database) -> None:
        migrate(database)
        self.clock = ManualClock(round(YEAR[0].timestamp()) * SECOND - 16 * DAY)
        self.hub = hub = Hub(database, self.clock)
        self.start = self.clock.now()
        self.timekeeper = Timekeeper(database, hub.triggers, hub.ticks, hub.executions, self.clock)

    def declare(self, zone: str, change: Change | None, cron: str) -> None:
        """A trigger that is due in the month around a clock change."""
        at = self.clock.now() + 16 * DAY if change is None else change.at * SECOND
        trigger = Cron(
            name=DAILY if cron[0] != "*" else OFTEN,
            cron=cron,
            timezone=zone,
            catch_up="all",
            overlap="parallel",
            starts_at=isoformat(at - 15 * DAY),
            ends_at=isoformat(at + 15 * DAY),
        )
        with self.hub.database.transaction() as connection:
            self.hub.triggers.put(connection, task_of(zone, change), trigger, source="registered", state="on", actor="test")

    def look(self) -> int:
        """Claim what is due, as if each tick ran at once; returns how many."""
        claimed = self.timekeeper.look().claimed
        with self.hub.database.transaction() as connection:
            for tick in claimed:
                ids = {"run_id": new_id(), "execution_id": new_id()}
                self.hub.ticks.decide(connection, tick.task, tick.trigger, str(tick.due_at), Verdict.RAN, **ids)
        return len(claimed)

    def due_around(self, change: Change, trigger: str) -> int:
        """How often a trigger was due within half a day of a clock change."""
        around = {"due_from": (change.at - 43_200) * SECOND, "due_to": (change.at + 43_200) * SECOND}
        with self.hub.database.reading() as connection:
            _, application, task = task_of(change.zone, change)
            return len(self.hub.ticks.list(connection, application=application, task=task, trigger=trigger, **around))


def task_of(zone: str, change: Change | None) -> TaskKey:
    place = zone.lower().replace("/", "_").replace("+", "_plus_").replace("-", "_")
    return ("default", place, "same" if change is None else f"at_{change.at}")


def is_of_a_whole_hour(change: Change) -> bool:
    return abs(change.by) == 3_600 and (change.at + 1 + offset_at(change.zone, change.at)) % 3_600 == 0


def test_the_books_of_a_month_around_a_clock_change_close_for_every_zone(sqlite_url: str) -> None:
    year = Year(Database(sqlite_url))
    rules = rules_of_all_zones(*(round(each.timestamp()) for each in YEAR))
    for zone, changes in rules.items():
        for change in changes or [None]:
            hour = 2 if change is None else change.hour
            for cron in (f"30 {hour} * * *", f"*/20 {hour} * * *"):
                year.declare(zone, change, cron)
    looks = 0
    while (following := year.timekeeper.following(within=366 * DAY).at) is not None:
        year.clock.time = max(year.clock.time, following) + (looks % 7) * 97 * 60 * SECOND
        assert year.look() > 0
        looks += 1
        if looks % 20 == 0:  # somebody sets the clock back by an hour, and then right again
            year.clock.time -= HOUR
            assert year.look() == 0
            year.clock.time += HOUR
    year.clock.time += DAY
    books = year.hub.witness.books(year.start)
    assert books.closes, books.problems
    total, watched = books.total, {(*account.task_key, account.trigger) for account in books.accounts}
    tasks = [task_of(zone, change) for zone, changes in rules.items() for change in changes or [None]]
    assert watched == {(*task, trigger) for task in tasks for trigger in (DAILY, OFTEN)}
    assert total.due == total.verdicts["ran"] >= len(tasks) * (29 + 87)
    assert (total.gaps, total.open, total.extras, total.doubles, total.found) == (0, 0, 0, 0, 0)
    for change in (change for changes in rules.values() for change in changes if is_of_a_whole_hour(change)):
        # Once a day whatever the clocks do; three times an hour as often as the hour is shown.
        assert year.due_around(change, DAILY) == 1, change
        assert year.due_around(change, OFTEN) == (0 if change.by > 0 else 6), change
