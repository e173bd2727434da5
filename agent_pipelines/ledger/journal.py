"""What an agent did, event by event."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.event import Text
from agent_pipelines.store.bulk import insert_missing
from agent_pipelines.store.insertion import insert_all, insert_new
from agent_pipelines.store.tables import events, executions
from agent_pipelines.store.window import Window


class Entry(BaseModel):
    """One event of one attempt; `seq` counts within the execution, from 1."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    attempt: int
    at: Microseconds
    kind: str
    body: dict[str, JsonValue]


class NumberTaken(AgentPipelinesError):
    """Somebody else has written an entry of this number."""


class Journal:
    """Writes and reads the events of executions. All methods take part in the caller's transaction."""

    def append(self, connection: sa.Connection, execution_id: str, entries: Sequence[Entry]) -> None:
        """Add entries; the caller numbers them, going on from `last_seq`.

        Raises NumberTaken if another process has noted something since; nothing is added then.
        """
        if not entries:
            return
        try:
            insert_all(connection, events, [{"execution_id": execution_id, **entry.model_dump()} for entry in entries])
        except IntegrityError as error:
            if "foreign key" in str(error.orig).lower():
                raise
            raise NumberTaken(f"execution {execution_id} has an entry {entries[0].seq} already") from error

    def append_many(self, connection: sa.Connection, entries: Sequence[tuple[str, Entry]]) -> None:
        """Add entries of several executions that no other process writes to; the caller numbers them."""
        insert_missing(connection, events, [{"execution_id": of, **vars(entry)} for of, entry in entries])

    def last_seqs(self, connection: sa.Connection, execution_ids: Sequence[str]) -> dict[str, int]:
        """The number of the newest entry of each execution that has any."""
        query = sa.select(events.c.execution_id, sa.func.max(events.c.seq)).where(events.c.execution_id.in_(execution_ids))
        return dict(connection.execute(query.group_by(events.c.execution_id)).tuples().all())

    def note(
        self, connection: sa.Connection, execution_id: str, *, at: Microseconds, kind: str, body: dict[str, JsonValue]
    ) -> None:
        """Add an entry about an execution that another process may be writing to; it belongs to no attempt."""
        row = {"execution_id": execution_id, "attempt": 0, "at": at, "kind": kind, "body": body}
        while insert_new(connection, events, {"seq": self.last_seq(connection, execution_id) + 1, **row}) is None:
            pass

    def said(self, connection: sa.Connection, execution_id: str) -> str:
        """All the text of the newest attempt that has said something; empty if none has."""
        spoken = (events.c.execution_id == execution_id, events.c.kind == Text.model_fields["kind"].default)
        newest = sa.select(sa.func.max(events.c.attempt)).where(*spoken).scalar_subquery()
        query = sa.select(events.c.body).where(*spoken, events.c.attempt == newest).order_by(events.c.seq)
        return "".join(str(body["text"]) for body in connection.execute(query).scalars())

    def last_seq(self, connection: sa.Connection, execution_id: str) -> int:
        """The number of the newest entry, 0 if there is none."""
        query = sa.select(sa.func.max(events.c.seq)).where(events.c.execution_id == execution_id)
        return connection.execute(query).scalar() or 0

    def newest(self, connection: sa.Connection, execution_id: str, kind: str) -> Entry | None:
        """The last entry of a kind."""
        query = sa.select(events).where(events.c.execution_id == execution_id, events.c.kind == kind)
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).mappings().first()
        return None if row is None else Entry.model_validate(row)

    def read(self, connection: sa.Connection, execution_id: str, *, after: int = 0, limit: int = 1_000) -> Sequence[Entry]:
        """Entries after a number, in order."""
        query = sa.select(events).where(events.c.execution_id == execution_id, events.c.seq > after)
        return [Entry.model_validate(row) for row in connection.execute(query.order_by(events.c.seq).limit(limit)).mappings()]

    def rows(self, connection: sa.Connection, columns: Sequence[str], window: Window) -> Sequence[Sequence[Any]]:
        """Chosen columns of the events in a stretch of time, `application` and `task` among them, by execution and in order."""
        of_task = {name: executions.c[name] for name in ("application", "task")}
        query = sa.select(*(of_task[name] if name in of_task else events.c[name] for name in columns))
        query = query.join_from(events, executions).where(*window.of(executions, events.c.at))
        return connection.execute(query.order_by(executions.c.seq, events.c.seq)).all()
