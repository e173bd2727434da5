"""Workers that execute runs, as they say it themselves."""

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.engine.daemons import STALE
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import workers

_DAY = 86_400_000_000


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
        connection.execute(sa.delete(workers).where(workers.c.beat_at < now - _DAY))

    def beat(self, connection: sa.Connection, worker_id: str, *, running: int) -> None:
        """Note that a worker lives."""
        living = workers.update().where(workers.c.id == worker_id)
        connection.execute(living.values(beat_at=self._clock.now(), running=running))

    def stop(self, connection: sa.Connection, worker_id: str) -> None:
        """Note that a worker has ended."""
        connection.execute(sa.delete(workers).where(workers.c.id == worker_id))

    def alive(self, connection: sa.Connection) -> Sequence[StoredWorker]:
        """Workers that have said so lately, by name."""
        now = self._clock.now()
        query = sa.select(workers).where(workers.c.beat_at.between(now - STALE, now + STALE))
        rows = connection.execute(query.order_by(workers.c.name, workers.c.started_at)).mappings()
        return [StoredWorker.model_validate(row) for row in rows]
