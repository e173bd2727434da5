"""Runs that work on many ticks: what each says of itself."""

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import bursts


class Burst(BaseModel):
    """A run that works on ticks of one workspace. Instants are UTC microseconds.

    It takes ticks from `opened_at` until `closing_at`, and is over at `closed_at`; `beat_at` is when it last said that it lives.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    run_id: str
    workspace: str
    launched_at: Microseconds
    opened_at: Microseconds | None
    beat_at: Microseconds | None
    in_flight: int
    done: int
    failed: int
    closing_at: Microseconds | None
    closed_at: Microseconds | None

    @property
    def takes(self) -> bool:
        """Whether it will take further ticks, now or as soon as it has begun."""
        return self.closing_at is None and self.closed_at is None


class Bursts:
    """Writes and reads the bursts. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def launch(self, connection: sa.Connection, run_id: str, workspace: str) -> None:
        """Note a burst before its run is requested."""
        insert_new(connection, bursts, {"run_id": run_id, "workspace": workspace, "launched_at": self._clock.now()})

    def open(self, connection: sa.Connection, run_id: str, workspace: str) -> None:
        """Note that a burst takes ticks from now on; one that somebody launched by hand is new here."""
        self.launch(connection, run_id, workspace)
        now = self._clock.now()
        connection.execute(bursts.update().where(bursts.c.run_id == run_id).values(opened_at=now, beat_at=now, closed_at=None))

    def beat(self, connection: sa.Connection, run_id: str, *, in_flight: int, done: int, failed: int) -> None:
        """Note that a burst lives, and what it has done so far.

        One that was taken for dead is not over then: somebody has to look after the ticks that it has.
        """
        values = {"beat_at": self._clock.now(), "in_flight": in_flight, "done": done, "failed": failed, "closed_at": None}
        connection.execute(bursts.update().where(bursts.c.run_id == run_id).values(**values))

    def closing(self, connection: sa.Connection, run_id: str) -> None:
        """Note that a burst takes no further ticks."""
        connection.execute(bursts.update().where(bursts.c.run_id == run_id).values(closing_at=self._clock.now()))

    def close(self, connection: sa.Connection, run_id: str) -> None:
        """Note that a burst is over."""
        still_open = bursts.update().where(bursts.c.run_id == run_id, bursts.c.closed_at.is_(None))
        connection.execute(still_open.values(closed_at=self._clock.now(), in_flight=0))

    def live(self, connection: sa.Connection, workspace: str | None = None) -> Sequence[Burst]:
        """Bursts that are not over, oldest first."""
        query = sa.select(bursts).where(bursts.c.closed_at.is_(None), *equal({bursts.c.workspace: workspace}))
        return [Burst.model_validate(row) for row in connection.execute(query.order_by(bursts.c.seq)).mappings()]

    def latest(self, connection: sa.Connection, workspace: str, *, limit: int) -> Sequence[Burst]:
        """Bursts of a workspace, newest first."""
        query = sa.select(bursts).where(bursts.c.workspace == workspace).order_by(bursts.c.seq.desc()).limit(limit)
        return [Burst.model_validate(row) for row in connection.execute(query).mappings()]

    def forget(self, connection: sa.Connection, *, launched_before: Microseconds, limit: int) -> int:
        """Remove bursts that are over; returns how many."""
        old = sa.select(bursts.c.seq).where(bursts.c.launched_at < launched_before, bursts.c.closed_at.is_not(None))
        old = old.order_by(bursts.c.seq).limit(limit)
        return connection.execute(sa.delete(bursts).where(bursts.c.seq.in_(old.scalar_subquery()))).rowcount
