"""The nouns of the clock over a test's database, with a clock that is moved by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Interval, Trigger
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.timekeeper import Look, Timekeeper
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.store.database import Database

SECOND = 1_000_000
TASK: TaskKey = ("default", "app", "job")


def every(seconds: float, **fields: Any) -> Interval:
    return Interval(every=Duration(seconds), **fields)


@dataclass(frozen=True)
class Running:
    """An execution that is at work, as the timekeeper sees it."""

    id: str
    task_key: TaskKey
    trigger: str
    occurrence: str
    due_at: int
    run_id: str


@dataclass
class Executions:
    """The executions that are at work; those of others are not known."""

    running: list[Running] = field(default_factory=list[Running])
    cancelled: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def unfinished(self, connection: sa.Connection) -> Sequence[Running]:
        return self.running

    def cancel(self, connection: sa.Connection, execution_id: str, reason: str) -> bool:
        self.cancelled.append((execution_id, reason))
        self.running = [each for each in self.running if each.id != execution_id]
        return True


class Keeper:
    """A timekeeper with what it needs."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.start = clock.now()
        self.ticks = Ticks(clock)
        self.triggers = Triggers(clock, self.ticks)
        self.bursts = Bursts(clock)
        self.executions = Executions()
        self.timekeeper = Timekeeper(database, self.triggers, self.ticks, self.executions, clock)

    def put(self, trigger: Trigger, task: TaskKey = TASK, **more: Any) -> bool:
        values: dict[str, Any] = {"source": "registered", "state": "on", "actor": "kim", **more}
        with self.database.transaction() as connection:
            return self.triggers.put(connection, task, trigger, **values)

    def look(self, seconds: float) -> Look:
        """Look so many seconds after the start."""
        self.clock.time = self.start + round(seconds * SECOND)
        return self.timekeeper.look()

    def all(self) -> list[Tick]:
        """All ticks, first due first."""
        with self.database.reading() as connection:
            return sorted(self.ticks.list(connection, limit=100_000), key=lambda tick: (tick.due_at, tick.task))

    def told(self) -> list[tuple[int, str | None]]:
        """Seconds after the start, and the verdict, of each tick."""
        return [((tick.due_at - self.start) // SECOND, tick.verdict and str(tick.verdict)) for tick in self.all()]

    def begin(self, tick: Tick) -> Running:
        """Do what an admission does: the tick ran, its execution is at work."""
        run_id = tick.run_id or new_id()
        running = Running(new_id(), tick.task_key, tick.trigger, tick.occurrence, tick.due_at, run_id)
        with self.database.transaction() as connection:
            self.ticks.decide(
                connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.RAN, run_id=run_id, execution_id=running.id
            )
        self.executions.running.append(running)
        return running

    def end(self, running: Running) -> None:
        self.executions.running.remove(running)
