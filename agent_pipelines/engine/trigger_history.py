"""What triggers were: each enable, disable, pause and edit, as it was observed. Nothing of it is ever changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field, TypeAdapter

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Trigger
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.tables import trigger_history

Source = Literal["declared", "registered"]
State = Literal["on", "off", "paused", "removed"]


class HistoryEntry(OfTask):
    """What a trigger was from `effective_at` on, until the next entry of the same trigger."""

    seq: int
    trigger: str
    source: Source
    definition: Annotated[Trigger, Field(discriminator="kind")]
    revision: str
    state: State
    reason: str | None
    actor: str
    effective_at: Microseconds
    observed_at: Microseconds


@dataclass(frozen=True)
class OnPeriod:
    """A stretch of time in which a trigger was on with one definition: later than `after`, and not later than `until`.

    `until` is None while it still is.
    """

    task_key: TaskKey
    trigger: str
    definition: Trigger
    after: Microseconds
    until: Microseconds | None


class TriggerHistory:
    """Writes and reads the history of the triggers. All methods take part in the caller's transaction."""

    def append(self, connection: sa.Connection, told: Sequence[Mapping[str, Any]], *, actor: str, at: Microseconds) -> None:
        """Note what triggers are from an instant on, each given by the columns of its row."""
        rows = [{**{name: each[name] for name in _TOLD}, "actor": actor, "effective_at": at, "observed_at": at} for each in told]
        if rows:
            connection.execute(trigger_history.insert(), rows)

    def changes(self, connection: sa.Connection, *, after: int) -> Sequence[tuple[int, TaskKey, str]]:
        """Entries of the history above a `seq`: their `seq`, the task, the trigger."""
        h = trigger_history.c
        query = sa.select(h.seq, h.workspace, h.application, h.task, h.trigger).where(h.seq > after).order_by(h.seq)
        return [
            (seq, (workspace, application, task), name) for seq, workspace, application, task, name in connection.execute(query)
        ]

    def last_seq(self, connection: sa.Connection) -> int:
        """The highest `seq` that is visible, 0 if there is none."""
        return connection.execute(sa.select(sa.func.coalesce(sa.func.max(trigger_history.c.seq), 0))).scalar_one()

    def entries(
        self, connection: sa.Connection, task: TaskKey, *, before: int | None = None, limit: int = 50
    ) -> Sequence[HistoryEntry]:
        """What became of the triggers of a task, newest first."""
        h = trigger_history.c
        wanted = equal(dict(zip((h.workspace, h.application, h.task), task, strict=True)))
        query = sa.select(trigger_history).where(*wanted, *within(h.seq, None, before)).order_by(h.seq.desc()).limit(limit)
        return [HistoryEntry.model_validate(row) for row in connection.execute(query).mappings()]

    def on_periods(
        self,
        connection: sa.Connection,
        *,
        since: Microseconds,
        until: Microseconds,
        workspace: str | None = None,
        application: str | None = None,
        task: str | None = None,
    ) -> Iterator[OnPeriod]:
        """When triggers were on between two instants, as their history tells it; one by one, for there may be many."""
        h = trigger_history
        same = (h.c.workspace, h.c.application, h.c.task, h.c.trigger)
        ends_at = sa.func.lead(h.c.effective_at).over(partition_by=same, order_by=h.c.seq).label("ends_at")
        # As text: parsed once for all that are alike, which is most of the time that many triggers take.
        definition = sa.cast(h.c.definition, sa.Text).label("definition")
        entries = sa.select(*same, definition, h.c.state, h.c.effective_at, ends_at)
        entries = entries.where(*equal({h.c.workspace: workspace, h.c.application: application, h.c.task: task}))
        entry = entries.subquery().c
        is_on = (entry.state == "on", entry.effective_at < until, sa.or_(entry.ends_at.is_(None), entry.ends_at > since))
        columns = (entry.workspace, entry.application, entry.task, entry.trigger, entry.definition)
        query = sa.select(*columns, entry.effective_at, entry.ends_at).where(*is_on)
        for row in connection.execute(query):
            key = (row.workspace, row.application, row.task)
            yield OnPeriod(key, row.trigger, _defined(row.definition), row.effective_at, row.ends_at)

    def known_since(self, connection: sa.Connection, task: TaskKey, name: str) -> Microseconds | None:
        """When a trigger was seen first; None if it never was."""
        query = sa.select(sa.func.min(trigger_history.c.effective_at)).where(trigger_history.c.trigger == name)
        of_task = zip(("workspace", "application", "task"), task, strict=True)
        return connection.execute(query.where(*(trigger_history.c[column] == value for column, value in of_task))).scalar()


_TOLD = ("workspace", "application", "task", "trigger", "source", "definition", "revision", "state", "reason")
_trigger = TypeAdapter[Trigger](Annotated[Trigger, Field(discriminator="kind")])


@lru_cache(maxsize=16_384)
def _defined(definition: str) -> Trigger:
    return _trigger.validate_json(definition)
