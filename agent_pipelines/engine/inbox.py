"""Events that have arrived and may make tasks due."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import inbox, ticks


class InboxEvent(BaseModel):
    """One event as it was received."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    workspace: str
    type: str
    source: str
    key: str | None
    payload: dict[str, JsonValue]
    actor: str
    received_at: Microseconds


class Inbox:
    """Writes and reads the events. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put(
        self,
        connection: sa.Connection,
        type: str,
        payload: Mapping[str, JsonValue],
        *,
        workspace: str = "default",
        source: str = "api",
        key: str | None = None,
        actor: str = "system",
    ) -> tuple[str, bool]:
        """Receive an event; returns its id and whether it is new.

        `key` is the sender's own name of the event: a second one with the same source and key is the same event.
        """
        event_id = new_id()
        row = {
            "id": event_id,
            "workspace": workspace,
            "type": type,
            "source": source,
            "key": key,
            "payload": dict(payload),
            "actor": actor,
            "received_at": self._clock.now(),
        }
        if insert_new(connection, inbox, row) is not None:
            return event_id, True
        known = sa.select(inbox.c.id).where(inbox.c.workspace == workspace, inbox.c.source == source, inbox.c.key == key)
        return connection.execute(known).scalar_one(), False

    def get(self, connection: sa.Connection, event_id: str) -> InboxEvent | None:
        """An event by its id."""
        row = connection.execute(sa.select(inbox).where(inbox.c.id == event_id)).mappings().first()
        return None if row is None else InboxEvent.model_validate(row)

    def by_ids(self, connection: sa.Connection, event_ids: Sequence[str]) -> Mapping[str, InboxEvent]:
        """Events by their ids; those that are not there are left out."""
        rows = connection.execute(sa.select(inbox).where(inbox.c.id.in_(event_ids))).mappings()
        return {event.id: event for event in map(InboxEvent.model_validate, rows)}

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        type: str | None = None,
        source: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[InboxEvent]:
        """Events, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        query = sa.select(inbox).where(inbox.c.workspace == workspace)
        query = query.where(*equal({inbox.c.type: type, inbox.c.source: source}), *within(inbox.c.seq, None, before))
        rows = connection.execute(query.order_by(inbox.c.seq.desc()).limit(limit)).mappings()
        return [InboxEvent.model_validate(row) for row in rows]

    def arrivals(self, connection: sa.Connection, *, after: int) -> Sequence[tuple[int, str, str]]:
        """Events above a `seq`: their `seq`, workspace and type."""
        query = sa.select(inbox.c.seq, inbox.c.workspace, inbox.c.type).where(inbox.c.seq > after).order_by(inbox.c.seq)
        return [(seq, workspace, type) for seq, workspace, type in connection.execute(query)]

    def last_seq(self, connection: sa.Connection) -> int:
        """The highest `seq` that is visible, 0 if there is none."""
        return connection.execute(sa.select(sa.func.coalesce(sa.func.max(inbox.c.seq), 0))).scalar_one()

    def newest(self, connection: sa.Connection) -> Mapping[tuple[str, str], Microseconds]:
        """When the last event of each type was received, by workspace and type."""
        query = sa.select(inbox.c.workspace, inbox.c.type, sa.func.max(inbox.c.received_at).label("received_at"))
        rows = connection.execute(query.group_by(inbox.c.workspace, inbox.c.type))
        return {(row.workspace, row.type): row.received_at for row in rows}

    def by_seqs(self, connection: sa.Connection, seqs: Sequence[int]) -> Sequence[InboxEvent]:
        """Events by their `seq`, in that order."""
        rows = connection.execute(sa.select(inbox).where(inbox.c.seq.in_(seqs)).order_by(inbox.c.seq)).mappings()
        return [InboxEvent.model_validate(row) for row in rows]

    def types(self, connection: sa.Connection, *, since: Microseconds, until: Microseconds) -> set[tuple[str, str]]:
        """Workspace and type of the events that were received between two instants, both included."""
        query = sa.select(inbox.c.workspace, inbox.c.type).distinct()
        rows = connection.execute(query.where(inbox.c.received_at >= since, inbox.c.received_at <= until))
        return {(row.workspace, row.type) for row in rows}

    def forget(self, connection: sa.Connection, *, received_before: Microseconds, limit: int) -> int:
        """Remove events; returns how many. An event that is sent again with an old key is new then."""
        old = sa.select(inbox.c.seq).where(inbox.c.received_at < received_before).order_by(inbox.c.received_at).limit(limit)
        return connection.execute(sa.delete(inbox).where(inbox.c.seq.in_(old.scalar_subquery()))).rowcount

    def unclaimed(
        self,
        connection: sa.Connection,
        task: TaskKey,
        trigger: str,
        type: str,
        *,
        since: Microseconds,
        beyond: InboxEvent | None = None,
        limit: int = 100,
    ) -> Sequence[InboxEvent]:
        """Events of a type received since an instant that have no tick of this trigger yet, oldest first.

        A page at a time: `beyond` is the last one of the page before. An anti-join, not a cursor: rows of concurrent writers
        become visible out of order, and a cursor would pass them by.
        """
        workspace, application, name = task
        claimed = sa.exists().where(
            ticks.c.workspace == workspace,
            ticks.c.application == application,
            ticks.c.task == name,
            ticks.c.trigger == trigger,
            ticks.c.occurrence == inbox.c.id,
        )
        query = sa.select(inbox).where(
            inbox.c.workspace == workspace, inbox.c.type == type, inbox.c.received_at >= since, ~claimed
        )
        if beyond is not None:
            query = query.where(
                sa.tuple_(inbox.c.received_at, inbox.c.seq) > sa.tuple_(sa.literal(beyond.received_at), sa.literal(beyond.seq))
            )
        rows = connection.execute(query.order_by(inbox.c.received_at, inbox.c.seq).limit(limit)).mappings()
        return [InboxEvent.model_validate(row) for row in rows]
