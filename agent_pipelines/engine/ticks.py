"""The ledger of what was due: one row for each due instant or event of a trigger, one verdict for each row."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.dialects import postgresql, sqlite

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.tick import CARRY_ON, DueTick, Lane, NewTick, Tick
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import ticks, triggers
from agent_pipelines.store.window import Window

_CLAIMED_AT_ONCE = 1_000


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
        begins_at: Microseconds | None = None,
        lane: Lane = "run",
        priority: int = 0,
        spec_hash: str | None = None,
    ) -> tuple[Tick, bool]:
        """Take a tick before anything is launched for it; returns it and whether this call was the first to claim it.

        `inputs` says why it is due: the event, the upstream tick, the variables. `revision` names the declaration of the
        trigger that made it due, `spec_hash` the specification that is to be executed where there is no declaration of it.
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
            "begins_at": due_at if begins_at is None else begins_at,
            "actor": actor,
            "inputs": dict(inputs or {}),
            "lane": lane,
            "priority": priority,
            "spec_hash": spec_hash,
            "claimed_at": self._clock.now(),
            "run_id": run_id,
        }
        seq = insert_new(connection, ticks, row)
        if seq is not None:
            undecided = {"waits_for": None, "verdict": None, "reason": None, "execution_id": None, "decided_at": None}
            return Tick.model_validate({"seq": seq, **row, **undecided}), True
        tick = self.find(connection, task, trigger, occurrence)
        assert tick is not None
        return tick, False

    def claim_many(self, connection: sa.Connection, new: Sequence[NewTick]) -> set[str]:
        """Claim ticks of triggers of time, some with their verdict; returns the ids of those that nobody had claimed before."""
        now = self._clock.now()
        found: set[str] = set()
        for start in range(0, len(new), _CLAIMED_AT_ONCE):
            rows = [_row(each, now) for each in new[start : start + _CLAIMED_AT_ONCE]]
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(ticks)
            found |= set(connection.execute(insert.on_conflict_do_nothing().returning(ticks.c.id), rows).scalars())
        return found

    def take(
        self,
        connection: sa.Connection,
        *,
        lane: Lane,
        until: Microseconds,
        limit: int,
        run_id: str | None = None,
        workspace: str | None = None,
        priority_from: int | None = None,
    ) -> Sequence[Tick]:
        """Give ticks that are to begin by an instant their run: one for all, or a new id for each.

        Those of the highest priority first, then those that are due first; the order says nothing of who claimed when.
        No tick is given to two that take at once.
        """
        free = (*_FREE, ticks.c.lane == lane, *equal({ticks.c.workspace: workspace}))
        query = sa.select(ticks.c.seq).where(*free, ticks.c.begins_at <= until)
        query = query.where(*within(ticks.c.priority, priority_from, None))
        query = query.order_by(*_PRECEDENCE).limit(limit).with_for_update(skip_locked=True)
        seqs = list(connection.execute(query).scalars())
        if not seqs:
            return []
        runs = [{"its": seq, "run": run_id or new_id()} for seq in seqs]
        connection.execute(ticks.update().where(ticks.c.seq == sa.bindparam("its")).values(run_id=sa.bindparam("run")), runs)
        rows = connection.execute(sa.select(ticks).where(ticks.c.seq.in_(seqs)).order_by(*_PRECEDENCE)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def reserve(self, connection: sa.Connection, tick_id: str, run_id: str) -> bool:
        """Give one tick its run; False if it has another one, or its verdict."""
        free = (ticks.c.id == tick_id, ticks.c.run_id.is_(None), ticks.c.verdict.is_(None))
        return connection.execute(ticks.update().where(*free).values(run_id=run_id)).rowcount == 1

    def give_back(self, connection: sa.Connection, run_id: str, *, but: Collection[str] = ()) -> int:
        """Take ticks from a burst that will not work on them, so that another one does; returns how many.

        `but` are the ids of those that it keeps.
        """
        given = ticks.update().where(ticks.c.run_id == run_id, ticks.c.lane == "burst", ticks.c.verdict.is_(None))
        if but:
            given = given.where(ticks.c.id.not_in(but))
        return connection.execute(given.values(run_id=None)).rowcount

    def give_back_strays(self, connection: sa.Connection, live: Collection[str]) -> int:
        """Take ticks from all bursts but these, which nobody else would take them from; returns how many."""
        stray = (ticks.c.lane == "burst", ticks.c.verdict.is_(None), ticks.c.run_id.is_not(None), ticks.c.run_id.not_in(live))
        return connection.execute(ticks.update().where(*stray).values(run_id=None)).rowcount

    def withdraw(self, connection: sa.Connection, task: TaskKey, trigger: str, *, due_after: Microseconds) -> int:
        """Remove ticks that were claimed ahead, are not due yet and have no run; returns how many.

        They are not skipped: a trigger that was edited may be due at the same instant again.
        """
        ahead = (
            _of(task),
            ticks.c.trigger == trigger,
            ticks.c.due_at > due_after,
            ticks.c.run_id.is_(None),
            ticks.c.verdict.is_(None),
        )
        return connection.execute(sa.delete(ticks).where(*ahead)).rowcount

    def waiting(self, connection: sa.Connection, *, limit: int = 5_000) -> Sequence[Tick]:
        """Ticks that are queued behind another one, first due first."""
        query = sa.select(ticks).where(ticks.c.verdict.is_(None), ticks.c.waits_for.is_not(None))
        rows = connection.execute(query.order_by(ticks.c.due_at, ticks.c.seq).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def unfinished(self, connection: sa.Connection, trigger_seqs: Sequence[int]) -> Sequence[Tick]:
        """Ticks without a verdict of triggers, given by the `seq` of their rows, first due first."""
        found: list[Tick] = []
        same = [ticks.c[name] == triggers.c[name] for name in ("workspace", "application", "task", "trigger")]
        for start in range(0, len(trigger_seqs), _CLAIMED_AT_ONCE):
            of_them = triggers.c.seq.in_(trigger_seqs[start : start + _CLAIMED_AT_ONCE])
            query = sa.select(ticks).join(triggers, sa.and_(*same)).where(of_them, ticks.c.verdict.is_(None))
            found += [Tick.model_validate(row) for row in connection.execute(query.order_by(ticks.c.due_at)).mappings()]
        return found

    def go_ahead(self, connection: sa.Connection, waited_for: Sequence[str]) -> int:
        """Let the ticks begin that were queued behind these, now or when they were to begin anyway; returns how many."""
        now = self._clock.now()
        behind = ticks.update().where(ticks.c.verdict.is_(None), ticks.c.waits_for.in_(waited_for))
        begins_at = sa.case((ticks.c.begins_at > now, ticks.c.begins_at), else_=now)
        return connection.execute(behind.values(waits_for=None, begins_at=begins_at)).rowcount if waited_for else 0

    def by_ids(self, connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, Tick]:
        """Ticks by their ids."""
        rows = connection.execute(sa.select(ticks).where(ticks.c.id.in_(ids))).mappings()
        return {tick.id: tick for tick in map(Tick.model_validate, rows)}

    def next_begin(
        self, connection: sa.Connection, *, lane: Lane, workspace: str | None = None, priority_from: int | None = None
    ) -> Microseconds | None:
        """When the first tick is to begin that still waits for a run; None if there is none."""
        query = sa.select(sa.func.min(ticks.c.begins_at)).where(*_FREE, ticks.c.lane == lane)
        query = query.where(*within(ticks.c.priority, priority_from, None))
        return connection.execute(query.where(*equal({ticks.c.workspace: workspace}))).scalar()

    def standing(self, connection: sa.Connection) -> tuple[Microseconds | None, bool]:
        """When the first tick is to begin that waits for a run of its own, and whether any is queued behind another one."""
        begins_at, is_queued = connection.execute(_STANDING).one()
        return begins_at, bool(is_queued)

    def backlog(self, connection: sa.Connection, *, workspace: str, until: Microseconds) -> int:
        """How many ticks are to begin by an instant and wait for a burst."""
        return connection.execute(_BACKLOG, {"of_workspace": workspace, "until": until}).scalar_one()

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
        lane: Lane | None = None,
        limit: int = 500,
    ) -> Sequence[Tick]:
        """Ticks without a verdict, oldest first: all of them, those of a task or a lane, those claimed before an instant."""
        query = sa.select(ticks).where(ticks.c.verdict.is_(None), *equal({ticks.c.lane: lane}))
        query = query.where(*within(ticks.c.claimed_at, None, claimed_before))
        if task is not None:
            query = query.where(_of(task))
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
        """Ticks of a task that have no tick of a follower's trigger yet, oldest claim first, without those that carry others on.

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
            _of(upstream), ticks.c.seq > after, ticks.c.due_at >= due_from, ticks.c.trigger.not_in(CARRY_ON), ~has_follower
        )
        rows = connection.execute(query.order_by(ticks.c.seq).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def of_part(self, connection: sa.Connection, task: TaskKey, trigger: str, prefix: str) -> Sequence[Tick]:
        """The ticks of a trigger whose occurrence begins with a prefix, oldest claim first."""
        begins_so = ticks.c.occurrence.startswith(prefix, autoescape=True)
        query = sa.select(ticks).where(_of(task), ticks.c.trigger == trigger, begins_so).order_by(ticks.c.seq)
        return [Tick.model_validate(row) for row in connection.execute(query).mappings()]

    def claims(self, connection: sa.Connection, *, after: int) -> Sequence[tuple[int, TaskKey]]:
        """Ticks above a `seq`, without those that carry on others: their `seq` and task."""
        query = sa.select(ticks.c.seq, ticks.c.workspace, ticks.c.application, ticks.c.task)
        query = query.where(ticks.c.seq > after, ticks.c.trigger.not_in(CARRY_ON)).order_by(ticks.c.seq)
        return [(seq, (workspace, application, task)) for seq, workspace, application, task in connection.execute(query)]

    def verdicts(self, connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, str | None]:
        """The verdicts of ticks by their ids."""
        query = sa.select(ticks.c.id, ticks.c.verdict).where(ticks.c.id.in_(ids))
        return {row.id: row.verdict for row in connection.execute(query)}

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
        query = query.where(*equal({ticks.c.application: application, ticks.c.task: task, ticks.c.trigger: trigger}))
        query = query.where(*within(ticks.c.due_at, due_from, due_to), *within(ticks.c.seq, None, before))
        rows = connection.execute(query.order_by(ticks.c.seq.desc()).limit(limit)).mappings()
        return [Tick.model_validate(row) for row in rows]

    def due(
        self,
        connection: sa.Connection,
        *,
        after: Microseconds,
        until: Microseconds,
        workspace: str | None = None,
        application: str | None = None,
        task: str | None = None,
        page: int = 10_000,
    ) -> Iterator[DueTick]:
        """The ticks due later than `after` and not later than `until`, in that order, read a page at a time."""
        query = sa.select(*(ticks.c[name] for name in DueTick._fields)).where(ticks.c.due_at > after, ticks.c.due_at <= until)
        query = query.where(*equal({ticks.c.workspace: workspace, ticks.c.application: application, ticks.c.task: task}))
        query = query.order_by(ticks.c.due_at, ticks.c.seq).limit(page)
        found = connection.execute(query).all()
        while found:
            yield from (DueTick(*row) for row in found)
            last = found[-1]
            place = sa.tuple_(sa.literal(last.due_at), sa.literal(last.seq))
            found = connection.execute(query.where(sa.tuple_(ticks.c.due_at, ticks.c.seq) > place)).all()

    def rows(self, connection: sa.Connection, columns: Sequence[str], window: Window) -> Sequence[Sequence[Any]]:
        """Chosen columns of the ticks due in a stretch of time, oldest claim first; for analysis of many at once."""
        query = sa.select(*(ticks.c[name] for name in columns)).where(*window.of(ticks, ticks.c.due_at))
        return connection.execute(query.order_by(ticks.c.seq)).all()


def _of(task: TaskKey) -> sa.ColumnElement[bool]:
    workspace, application, name = task
    return sa.and_(ticks.c.workspace == workspace, ticks.c.application == application, ticks.c.task == name)


_PRECEDENCE = (
    ticks.c.priority.desc(),
    ticks.c.begins_at,
    ticks.c.due_at,
    ticks.c.application,
    ticks.c.task,
    ticks.c.trigger,
    ticks.c.occurrence,
)


def _row(new: NewTick, now: Microseconds) -> dict[str, Any]:
    workspace, application, name = new.task
    return {
        "id": new.id,
        "workspace": workspace,
        "application": application,
        "task": name,
        "trigger": new.trigger,
        "trigger_revision": new.revision,
        "origin": str(Origin.SCHEDULE),
        "occurrence": str(new.due_at),
        "due_at": new.due_at,
        "logical_at": new.logical_at,
        "begins_at": new.begins_at,
        "actor": "system",
        "inputs": dict(new.inputs),
        "lane": new.lane,
        "priority": new.priority,
        "spec_hash": new.spec_hash,
        "waits_for": new.waits_for,
        "claimed_at": now,
        "verdict": None if new.verdict is None else str(new.verdict),
        "reason": new.reason,
        "decided_at": None if new.verdict is None else now,
    }


def _tick(task: TaskKey, trigger: str, occurrence: str) -> dict[str, str]:
    return dict(zip(_TICK, (*task, trigger, occurrence), strict=True))


# Made once: to put a statement together takes SQLAlchemy longer than to run it.
_TICK = ("of_workspace", "of_application", "of_task", "of_trigger", "of_occurrence")
_IS = sa.and_(*(ticks.c[name.removeprefix("of_")] == sa.bindparam(name) for name in _TICK))
_FIND = sa.select(ticks).where(_IS)
_FREE = (ticks.c.verdict.is_(None), ticks.c.run_id.is_(None), ticks.c.waits_for.is_(None))
_BACKLOG = sa.select(sa.func.count()).where(
    *_FREE, ticks.c.lane == "burst", ticks.c.workspace == sa.bindparam("of_workspace"), ticks.c.begins_at <= sa.bindparam("until")
)
_STANDING = sa.select(
    sa.select(sa.func.min(ticks.c.begins_at)).where(*_FREE, ticks.c.lane == "run").scalar_subquery(),
    sa.exists().where(ticks.c.verdict.is_(None), ticks.c.waits_for.is_not(None)),
)
_DECIDE = ticks.update().where(_IS, ticks.c.verdict.is_(None))
