"""Workers that execute runs, as they say it themselves."""

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.engine.beats import forget_silent, is_alive
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import workers


class StoredWorker(BaseModel):
    """A worker: up to `concurrency` runs at once of its `queues`, `running` just now."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    running: int
    started_at: Microseconds
    beat_at: Microseconds


class Workers:
    """Writes and reads the workers. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start(
        self,
        connection: sa.Connection,
        worker_id: str,
        name: str,
        *,
        host: str,
        pid: int,
        queues: Sequence[str],
        concurrency: int,
    ) -> None:
        """Note a worker; those that have been silent for a day are forgotten on the way."""
        now = self._clock.now()
        row = {"id": worker_id, "name": name, "host": host, "pid": pid, "queues": list(queues), "concurrency": concurrency}
        insert_new(connection, workers, {**row, "running": 0, "started_at": now, "beat_at": now})
        forget_silent(connection, workers, now)

    def beat(self, connection: sa.Connection, worker_id: str, *, running: int) -> bool:
        """Note that a worker lives. False if it has been forgotten."""
        living = workers.update().where(workers.c.id == worker_id)
        return connection.execute(living.values(beat_at=self._clock.now(), running=running)).rowcount == 1

    def stop(self, connection: sa.Connection, worker_id: str) -> None:
        """Note that a worker has ended."""
        connection.execute(sa.delete(workers).where(workers.c.id == worker_id))

    def alive(self, connection: sa.Connection) -> Sequence[StoredWorker]:
        """Workers that have said so lately, by name."""
        return self._read(connection, is_alive(workers, self._clock.now()))

    def known(self, connection: sa.Connection) -> Sequence[StoredWorker]:
        """Workers that have not ended, as far as is known, by name."""
        return self._read(connection, sa.true())

    def _read(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Sequence[StoredWorker]:
        query = sa.select(workers).where(condition).order_by(workers.c.name, workers.c.started_at)
        return [StoredWorker.model_validate(row) for row in connection.execute(query).mappings()]
