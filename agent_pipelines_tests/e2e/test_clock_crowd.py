"""Very many triggers that are due in the same second, and few that may be at work at once."""

import asyncio
from collections import Counter

import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import Microseconds, SystemClock, isoformat
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.execution import Status
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import executions
from agent_pipelines_tests.execution.bursting import Counting, spec, worker

SECOND = 1_000_000
LIMIT = 20
SETTINGS = BurstSettings.model_validate({"runs": 2, "in_flight": LIMIT, "idle": 1})


class Leaping(SystemClock):
    """The clock of the machine, which somebody sets forward."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> Microseconds:
        return super().now() + self._ahead

    def leap(self, by: Microseconds) -> None:
        self._ahead += by


def test_five_hundred_triggers_of_the_same_second_with_twenty_at_once(database: Database) -> None:
    crowd(database, 500)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_ten_thousand_triggers_of_the_same_second_with_twenty_at_once(database: Database) -> None:
    crowd(database, 10_000)


def crowd(database: Database, many: int) -> None:
    clock = Leaping()
    hub = Hub(database, clock)
    timekeeper = Timekeeper(database, hub.triggers, hub.ticks, hub.executions, clock)
    since = clock.now()
    due_at = since + 3_600 * SECOND
    tasks = [spec(f"task{number}", prompt="Go", triggers=[{"kind": "at", "at": isoformat(due_at)}]) for number in range(many)]
    hub.registry.register_many(tasks, Declared(agents=("worker",)), actor="test")
    clock.leap(3_600 * SECOND)
    looks = [timekeeper.look()]
    while looks[-1].is_behind:
        looks.append(timekeeper.look())
    assert sum(len(look.claimed) for look in looks) == many
    runtime = Counting(0.005)
    first, second = worker(hub, runtime, settings=SETTINGS), worker(hub, runtime, settings=SETTINGS)

    async def both() -> None:
        await asyncio.gather(first.work(), second.work())

    asyncio.run(both())
    assert runtime.most <= LIMIT
    assert set(Counter(runtime.tasks).values()) == {1}
    assert (first.done + second.done, first.failed + second.failed) == (many, 0)
    with database.reading() as connection:
        found = connection.execute(sa.select(executions.c.status, sa.func.count()).group_by(executions.c.status)).all()
    assert [tuple(row) for row in found] == [(str(Status.SUCCEEDED), many)]
    books = hub.witness.books(since)
    assert books.closes, books.problems
    assert (books.total.due, books.total.verdicts) == (many, {"ran": many})
