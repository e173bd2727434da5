"""Processes of ours that keep the time, as they say it themselves."""

import os
import socket
from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.engine.beats import forget_silent, is_alive
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import daemons


class StoredDaemon(BaseModel):
    """A daemon; `role` is `leader` or `standby`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    role: str
    host: str
    pid: int
    started_at: Microseconds
    beat_at: Microseconds


class Daemons:
    """Writes and reads the daemons. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def beat(self, connection: sa.Connection, daemon_id: str, role: str) -> None:
        """Note that a daemon lives; those that have been silent for a day are forgotten on the way."""
        now = self._clock.now()
        row = {"id": daemon_id, "role": role, "host": socket.gethostname(), "pid": os.getpid(), "started_at": now, "beat_at": now}
        if insert_new(connection, daemons, row) is None:
            connection.execute(daemons.update().where(daemons.c.id == daemon_id).values(role=role, beat_at=now))
        else:
            forget_silent(connection, daemons, now)

    def stop(self, connection: sa.Connection, daemon_id: str) -> None:
        """Note that a daemon has ended."""
        connection.execute(sa.delete(daemons).where(daemons.c.id == daemon_id))

    def alive(self, connection: sa.Connection) -> Sequence[StoredDaemon]:
        """Daemons that have said so lately, leaders first."""
        query = sa.select(daemons).where(is_alive(daemons, self._clock.now()))
        rows = connection.execute(query.order_by(daemons.c.role, daemons.c.started_at)).mappings()
        return [StoredDaemon.model_validate(row) for row in rows]

    def pulse(self, connection: sa.Connection) -> Sequence[tuple[str, Microseconds]]:
        """The leaders and their last beats. Who sees these change knows that one lives, whatever the clocks of the hosts show."""
        query = sa.select(daemons.c.id, daemons.c.beat_at).where(daemons.c.role == "leader").order_by(daemons.c.id)
        return [(row.id, row.beat_at) for row in connection.execute(query)]

    def keeps_time(self, connection: sa.Connection) -> bool:
        """Whether a daemon of ours keeps the time just now."""
        return any(daemon.role == "leader" for daemon in self.alive(connection))
