"""Results that identical calls share."""

from collections.abc import Sequence

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.tables import result_cache as t


class CachedResult(OfTask):
    """A result that is used again until it expires; `execution_id` is the execution that has it."""

    key: str
    execution_id: str
    kept_at: Microseconds
    expires_at: Microseconds
    hits: int
    last_hit_at: Microseconds | None


_TAKE = (
    t.update()
    .where(t.c.key == sa.bindparam("of", type_=sa.Text), t.c.expires_at > sa.bindparam("at", type_=sa.BigInteger))
    .values(hits=t.c.hits + 1, last_hit_at=sa.bindparam("at", type_=sa.BigInteger))
    .returning(t.c.execution_id)
)


class ResultCache:
    """Writes and reads the results that are used again. All methods take part in the caller's transaction.

    A key is a hash over workspace, task and all that the call depends on; so nothing is ever invalidated by hand.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def take(self, connection: sa.Connection, key: str) -> str | None:
        """Use a result once more; the execution that has it, None if there is none that has not expired."""
        return connection.execute(_TAKE, {"of": key, "at": self._clock.now()}).scalar()

    def keep(self, connection: sa.Connection, key: str, task: tuple[str, str, str], execution_id: str, ttl: float) -> None:
        """Keep the result of an execution for `ttl` seconds, in place of the one that is there."""
        now = self._clock.now()
        workspace, application, name = task
        connection.execute(t.delete().where(t.c.key == key))
        connection.execute(
            t.insert().values(
                key=key,
                workspace=workspace,
                application=application,
                task=name,
                execution_id=execution_id,
                kept_at=now,
                expires_at=now + max(1, round(ttl * 1_000_000)),
                hits=0,
            )
        )

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        limit: int = 50,
    ) -> Sequence[CachedResult]:
        """Results that have not expired, the newest first."""
        query = sa.select(t).where(t.c.workspace == workspace, t.c.expires_at > self._clock.now())
        query = query.where(*equal({t.c.application: application, t.c.task: task}))
        rows = connection.execute(query.order_by(t.c.kept_at.desc(), t.c.key).limit(limit)).mappings()
        return [CachedResult.model_validate(row) for row in rows]

    def clear(
        self, connection: sa.Connection, *, workspace: str = "default", application: str | None = None, task: str | None = None
    ) -> int:
        """Give up results; returns how many. The executions that have them stay."""
        where = (t.c.workspace == workspace, *equal({t.c.application: application, t.c.task: task}))
        return connection.execute(t.delete().where(*where)).rowcount

    def forget(self, connection: sa.Connection, *, expired_before: Microseconds, limit: int) -> int:
        """Remove results that have expired, at most so many; returns how many."""
        some = sa.select(t.c.key).where(t.c.expires_at <= expired_before).limit(limit)
        return connection.execute(t.delete().where(t.c.key.in_(some))).rowcount
