"""Who changed what: rows that are only ever added."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.secrets import redactor
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.storable import storable
from agent_pipelines.store.tables import audit


class AuditEntry(BaseModel):
    """One change: who did what to which object, as in `kim`, `prompt.rollback`, `reports/daily_digest`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    workspace: str
    at: Microseconds
    actor: str
    action: str
    object: str
    details: dict[str, JsonValue]


class Audit:
    """Writes and reads the entries. All methods take part in the caller's transaction, so that no change is without one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def record(
        self,
        connection: sa.Connection,
        *,
        actor: str,
        action: str,
        object: str,
        details: Mapping[str, JsonValue] | None = None,
        workspace: str = "default",
    ) -> int:
        """Add an entry, without secrets; returns its `seq`."""
        row = self._row(actor, action, object, details, workspace)
        return connection.execute(audit.insert().values(**row).returning(audit.c.seq)).scalar_one()

    def record_each(
        self,
        connection: sa.Connection,
        changes: Mapping[str, Mapping[str, JsonValue]],
        *,
        actor: str,
        action: str,
        workspace: str = "default",
    ) -> None:
        """Add an entry for each of several objects to which the same was done, each with its details."""
        rows = [self._row(actor, action, name, details, workspace) for name, details in changes.items()]
        if rows:
            connection.execute(audit.insert(), rows)

    def _row(
        self, actor: str, action: str, object: str, details: Mapping[str, JsonValue] | None, workspace: str
    ) -> dict[str, Any]:
        return {
            "workspace": workspace,
            "at": self._clock.now(),
            "actor": actor,
            "action": action,
            "object": object,
            "details": redactor.value(storable(dict(details or {}))),
        }

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        object: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[AuditEntry]:
        """Entries, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        query = sa.select(audit).where(audit.c.workspace == workspace)
        query = query.where(
            *equal({audit.c.object: object, audit.c.actor: actor, audit.c.action: action}), *within(audit.c.seq, None, before)
        )
        rows = connection.execute(query.order_by(audit.c.seq.desc()).limit(limit)).mappings()
        return [AuditEntry.model_validate(row) for row in rows]
