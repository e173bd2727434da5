"""What is to be told about executions: rows that readers follow at their own pace."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.bulk import insert_rows
from agent_pipelines.store.tables import outbox

_PUT = outbox.insert().inline()


class OutboxRow(BaseModel):
    """One thing to tell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    workspace: str
    application: str
    task: str
    kind: str
    execution_id: str | None
    body: dict[str, JsonValue]
    created_at: Microseconds


class Outbox:
    """Writes and reads the rows. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put(
        self,
        connection: sa.Connection,
        task: TaskKey,
        kind: str,
        body: Mapping[str, JsonValue],
        *,
        execution_id: str | None = None,
    ) -> None:
        """Leave something to tell, in the transaction that made it true."""
        workspace, application, name = task
        row = {
            "workspace": workspace,
            "application": application,
            "task": name,
            "kind": kind,
            "execution_id": execution_id,
            "body": dict(body),
            "created_at": self._clock.now(),
        }
        connection.execute(_PUT, row)

    def put_many(
        self, connection: sa.Connection, task: TaskKey, told: Sequence[tuple[str, str, Mapping[str, JsonValue]]]
    ) -> None:
        """Leave several things to tell of a task: kind, execution and body of each."""
        workspace, application, name = task
        now = self._clock.now()
        rows = [
            {
                "workspace": workspace,
                "application": application,
                "task": name,
                "kind": kind,
                "execution_id": execution_id,
                "body": body,
                "created_at": now,
            }
            for kind, execution_id, body in told
        ]
        insert_rows(connection, outbox, rows)

    def forget(self, connection: sa.Connection, *, created_before: Microseconds, limit: int) -> int:
        """Remove rows; returns how many."""
        old = sa.select(outbox.c.seq).where(outbox.c.created_at < created_before).order_by(outbox.c.seq).limit(limit)
        return connection.execute(sa.delete(outbox).where(outbox.c.seq.in_(old.scalar_subquery()))).rowcount

    def after(self, connection: sa.Connection, seq: int, *, limit: int = 500) -> Sequence[OutboxRow]:
        """Rows after a sequence number, in order."""
        rows = connection.execute(sa.select(outbox).where(outbox.c.seq > seq).order_by(outbox.c.seq).limit(limit)).mappings()
        return [OutboxRow.model_validate(row) for row in rows]
