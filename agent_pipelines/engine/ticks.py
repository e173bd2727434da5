"""The ledger of what was due: one row for each due instant or event of a trigger, one verdict for each row."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import ticks

REPAIR = "repair"
"""Trigger name of the ticks that run a failed execution once more; no declared trigger may have it.

Their occurrence is the id of that execution, or of the tick whose launch failed.
"""


class Tick(BaseModel):
    """One due instant or event of one trigger."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    workspace: str
    application: str
    task: str
    trigger: str
    trigger_revision: str | None = None
    origin: Origin
    occurrence: str
    due_at: Microseconds
    logical_at: Microseconds
    actor: str
    inputs: dict[str, JsonValue]
    claimed_at: Microseconds
    run_id: str | None
    verdict: Verdict | None
    reason: str | None
    execution_id: str | None
    decided_at: Microseconds | None

    @property
    def task_key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)


class Ticks:
    """Writes and reads the ticks. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def claim(
        self,
        connection: sa.Connection,
        task: TaskKey,
        trigger: str,
        occurrence: str,
        *,
        origin: Origin,
        due_at: Microseconds,
        logical_at: Microseconds | None = None,
        actor: str = "system",
        inputs: Mapping[str, JsonValue] | None = None,
        run_id: str | None = None,
        revision: str | None = None,
    ) -> tuple[Tick, bool]:
        """Take a tick before anything is launched for it; returns it and whether this call was the first to claim it.

        `inputs` says why it is due: the event, the upstream tick, the variables. `revision` names the declaration of the
        trigger that made it due.
        """
        workspace, application, name = task
        row: dict[str, Any] = {
            "id": new_id(),
            "workspace": workspace,
            "application": application,
            "task": name,
            "trigger": trigger,
            "trigger_revision": revision,
            "origin": str(origin),
            "occurrence": occurrence,
            "due_at": due_at,
            "logical_at": due_at if logical_at is None else logical_at,
            "actor": actor,
            "inputs": dict(inputs or {}),
            "claimed_at": self._clock.now(),
            "run_id": run_id,
        }
        seq = insert_new(connection, ticks, row)
        if seq is not None:
            undecided = {"verdict": None, "reason": None, "execution_id": None, "decided_at": None}
            return Tick.model_validate({"seq": seq, **row, **undecided}), True
        tick = self.find(connection, task, trigger, occurrence)
        assert tick is not None
        return tick, False

    def find(self, connection: sa.Connection, task: TaskKey, trigger: str, occurrence: str) -> Tick | None:
        """The tick of an occurrence, None if it was never claimed."""
        row = connection.execute(_FIND, _tick(task, trigger, occurrence)).mappings().first()
        return None if row is None else Tick.model_validate(row)

    def decide(
        self,
        connection: sa.Connection,
        task: TaskKey,
        trigger: str,
        occurrence: str,
        verdict: Verdict,
        *,
        run_id: str | None = None,
        execution_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Give the verdict; False if there was one already, which stays."""
        values = {"verdict": str(verdict), "reason": reason, "execution_id": execution_id, "decided_at": self._clock.now()}
        if run_id is not None:
            values["run_id"] = run_id
        return connection.execute(_DECIDE, {**_tick(task, trigger, occurrence), **values}).rowcount == 1

    def open(
        self,
        connection: sa.Connection,
        *,
        task: TaskKey | None = None,
        claimed_before: Microseconds | None = None,
        limit: int = 500,
    ) -> Sequence[Tick]:
        """Ticks without a verdict, oldest first: all of them, those of a task, those claimed before an instant."""
        query = sa.select(ticks).where(ticks.c.verdict.is_(None))
        if task is not None:
            query = query.where(_of(task))
        if claimed_before is not None:
            query = query.where(ticks.c.claimed_at < claimed_before)
        rows = connection.execute(query.order_by(ticks.c.claimed_at).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def unfollowed(
        self,
        connection: sa.Connection,
        upstream: TaskKey,
        follower: TaskKey,
        trigger: str,
        *,
        due_from: Microseconds,
        after: int,
        limit: int = 500,
    ) -> Sequence[Tick]:
        """Ticks of a task that have no tick of a follower's trigger yet, oldest claim first; repairs are left out.

        Only those due at or after an instant, and with a `seq` above `after`. An anti-join, as for events: rows of
        concurrent writers become visible out of order.
        """
        followed = ticks.alias("followed")
        workspace, application, name = follower
        has_follower = sa.exists().where(
            followed.c.workspace == workspace,
            followed.c.application == application,
            followed.c.task == name,
            followed.c.trigger == trigger,
            followed.c.occurrence == ticks.c.id,
        )
        query = sa.select(ticks).where(
            _of(upstream), ticks.c.seq > after, ticks.c.due_at >= due_from, ticks.c.trigger != REPAIR, ~has_follower
        )
        rows = connection.execute(query.order_by(ticks.c.seq).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def last_seq(self, connection: sa.Connection) -> int:
        """The highest `seq` that is visible, 0 if there is none."""
        return connection.execute(sa.select(sa.func.coalesce(sa.func.max(ticks.c.seq), 0))).scalar_one()

    def forget(self, connection: sa.Connection, *, due_before: Microseconds, limit: int) -> int:
        """Remove ticks that have their verdict; returns how many."""
        old = sa.select(ticks.c.seq).where(ticks.c.due_at < due_before, ticks.c.verdict.is_not(None)).order_by(ticks.c.due_at)
        return connection.execute(sa.delete(ticks).where(ticks.c.seq.in_(old.limit(limit).scalar_subquery()))).rowcount

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        trigger: str | None = None,
        due_from: Microseconds | None = None,
        due_to: Microseconds | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Tick]:
        """Ticks, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        query = sa.select(ticks).where(ticks.c.workspace == workspace)
        for column, value in ((ticks.c.application, application), (ticks.c.task, task), (ticks.c.trigger, trigger)):
            if value is not None:
                query = query.where(column == value)
        if due_from is not None:
            query = query.where(ticks.c.due_at >= due_from)
        if due_to is not None:
            query = query.where(ticks.c.due_at < due_to)
        if before is not None:
            query = query.where(ticks.c.seq < before)
        rows = connection.execute(query.order_by(ticks.c.seq.desc()).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def rows(
        self,
        connection: sa.Connection,
        columns: Sequence[str],
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        since: Microseconds | None = None,
        until: Microseconds | None = None,
    ) -> Sequence[Sequence[Any]]:
        """Chosen columns of the ticks due in a stretch of time, oldest claim first; for analysis of many at once."""
        query = sa.select(*(ticks.c[name] for name in columns)).where(ticks.c.workspace == workspace)
        for column, value in ((ticks.c.application, application), (ticks.c.task, task)):
            if value is not None:
                query = query.where(column == value)
        if since is not None:
            query = query.where(ticks.c.due_at >= since)
        if until is not None:
            query = query.where(ticks.c.due_at < until)
        return connection.execute(query.order_by(ticks.c.seq)).all()


def _of(task: TaskKey) -> sa.ColumnElement[bool]:
    workspace, application, name = task
    return sa.and_(ticks.c.workspace == workspace, ticks.c.application == application, ticks.c.task == name)


def _tick(task: TaskKey, trigger: str, occurrence: str) -> dict[str, str]:
    return dict(zip(_TICK, (*task, trigger, occurrence), strict=True))


# Made once: to put a statement together takes SQLAlchemy longer than to run it.
_TICK = ("of_workspace", "of_application", "of_task", "of_trigger", "of_occurrence")
_IS = sa.and_(*(ticks.c[name.removeprefix("of_")] == sa.bindparam(name) for name in _TICK))
_FIND = sa.select(ticks).where(_IS)
_DECIDE = ticks.update().where(_IS, ticks.c.verdict.is_(None))
