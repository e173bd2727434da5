"""The triggers of all tasks: which are on, and how far each has been looked at."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field, JsonValue
from sqlalchemy.dialects import postgresql, sqlite

from agent_pipelines.core.clock import Clock, Microseconds, isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import Trigger, trigger_name
from agent_pipelines.engine.due import due_between, next_due
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.tick import Lane, NewTick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.trigger_history import Source, State, TriggerHistory
from agent_pipelines.store.tables import triggers


class StoredTrigger(OfTask):
    """A trigger as it is now.

    Everything due later than `since` and not later than `looked_until` has its tick. `next_due_at` is the first instant after
    that; None while the trigger is not on, and for triggers that are not of time. `marks` are the positions of the others.
    """

    seq: int
    trigger: str
    source: Source
    definition: Annotated[Trigger, Field(discriminator="kind")]
    revision: str
    lane: Literal["run", "burst"]
    priority: int
    spec_hash: str | None
    state: State
    reason: str | None
    since: Microseconds
    looked_until: Microseconds
    next_due_at: Microseconds | None
    marks: dict[str, JsonValue]


@dataclass(frozen=True)
class Wanted:
    """What a trigger is to be."""

    task: TaskKey
    trigger: Trigger
    source: Source
    state: Literal["on", "off", "paused"]
    lane: Literal["run", "burst"] = "run"
    priority: int = 0
    spec_hash: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Move:
    """How far a trigger has been looked at now; `marks` of None stay as they are."""

    trigger: StoredTrigger
    looked_until: Microseconds
    next_due_at: Microseconds | None
    marks: Mapping[str, JsonValue] | None = None


class Triggers:
    """Writes and reads the triggers. All methods take part in the caller's transaction.

    Whatever changes about one is appended to `history`.
    """

    def __init__(self, clock: Clock, ticks: Ticks) -> None:
        self._clock = clock
        self._ticks = ticks
        self.history = TriggerHistory()

    def put(
        self,
        connection: sa.Connection,
        task: TaskKey,
        trigger: Trigger,
        *,
        source: Source,
        state: Literal["on", "off", "paused"],
        actor: str,
        lane: Literal["run", "burst"] = "run",
        priority: int = 0,
        spec_hash: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Say what a trigger is from now on; returns whether that is another than before.

        One that is new, newly on, or due at other instants than before looks ahead from now: nothing past is ever fired. What was
        claimed ahead and is not at work yet is withdrawn.
        """
        now = self._clock.now()
        known = self.get(connection, task, trigger_name(trigger), lock=True)
        values = _looking_ahead(Wanted(task, trigger, source, state, lane, priority, spec_hash, reason), now)
        goes_on = known is not None and known.state == state == "on" and known.revision == values["revision"]
        if known is not None and goes_on:
            values["next_due_at"] = next_due(trigger, known.looked_until)
            values |= {"since": known.since, "looked_until": known.looked_until, "marks": known.marks}
        if known is None:
            connection.execute(triggers.insert(), {**_columns(task, trigger_name(trigger)), **values})
        else:
            if not goes_on:
                self._close_account(connection, known, now, f"{state} by {actor}" if state != "on" else f"edited by {actor}")
                self._ticks.withdraw(connection, task, trigger_name(trigger), due_after=now)
            same = {name: value for name, value in known.model_dump(mode="json").items() if name in values}
            if same == values:
                return False
            connection.execute(triggers.update().where(triggers.c.seq == known.seq).values(**values))
            described = ("source", "definition", "revision", "state", "reason")
            if all(same[name] == values[name] for name in described):
                return True
        self.history.append(connection, [{**_columns(task, trigger_name(trigger)), **values}], actor=actor, at=now)
        return True

    def put_many(self, connection: sa.Connection, wanted: Sequence[Wanted], *, actor: str) -> None:
        """The same for many triggers, in few statements for those that nobody has put before."""
        now = self._clock.now()
        rows = [{**_columns(each.task, trigger_name(each.trigger)), **_looking_ahead(each, now)} for each in wanted]
        if not rows:
            return
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(triggers).on_conflict_do_nothing()
        key = (triggers.c.workspace, triggers.c.application, triggers.c.task, triggers.c.trigger)
        new = {tuple(row) for row in connection.execute(insert.returning(*key), rows)}
        told = [row for row in rows if (row["workspace"], row["application"], row["task"], row["trigger"]) in new]
        self.history.append(connection, told, actor=actor, at=now)
        known = [
            (*each.task, trigger_name(each.trigger)) for each in wanted if (*each.task, trigger_name(each.trigger)) not in new
        ]
        for start in range(0, len(known), _LOCKED_AT_ONCE):
            # In the order in which all lock several: of two, one waits for the other, never both.
            some = sa.select(triggers.c.seq).where(sa.tuple_(*key).in_(known[start : start + _LOCKED_AT_ONCE]))
            connection.execute(some.order_by(triggers.c.seq).with_for_update()).all()
        for each in wanted:
            if (*each.task, trigger_name(each.trigger)) not in new:
                self.put(
                    connection,
                    each.task,
                    each.trigger,
                    source=each.source,
                    state=each.state,
                    actor=actor,
                    lane=each.lane,
                    priority=each.priority,
                    spec_hash=each.spec_hash,
                    reason=each.reason,
                )

    def remove(self, connection: sa.Connection, task: TaskKey, name: str, *, actor: str, reason: str | None = None) -> bool:
        """A trigger is not declared any more; False if it was not there. Its history stays, and tells so."""
        known = self.get(connection, task, name, lock=True)
        if known is None or known.state == "removed":
            return False
        now = self._clock.now()
        self._close_account(connection, known, now, f"removed by {actor}")
        self._ticks.withdraw(connection, task, name, due_after=now)
        values = {"state": "removed", "reason": reason, "next_due_at": None}
        connection.execute(triggers.update().where(triggers.c.seq == known.seq).values(**values))
        told = {**known.model_dump(mode="json", include={"source", "definition", "revision"}), **values}
        self.history.append(connection, [{**_columns(task, name), **told}], actor=actor, at=now)
        return True

    def get(self, connection: sa.Connection, task: TaskKey, name: str, *, lock: bool = False) -> StoredTrigger | None:
        """A trigger by its name, removed or not."""
        query = sa.select(triggers).where(*_is(task), triggers.c.trigger == name)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else StoredTrigger.model_validate(row)

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str | None = None,
        task: TaskKey | None = None,
        source: Source | None = None,
        kinds: Sequence[str] = (),
        on_only: bool = False,
        after: int = 0,
        limit: int = 1_000_000,
    ) -> Sequence[StoredTrigger]:
        """Triggers that are not removed, in the order in which they came; `after` is the `seq` of the last one of a page."""
        query = sa.select(triggers).where(triggers.c.state != "removed", triggers.c.seq > after)
        if workspace is not None:
            query = query.where(triggers.c.workspace == workspace)
        if task is not None:
            query = query.where(*_is(task))
        if source is not None:
            query = query.where(triggers.c.source == source)
        if kinds:
            query = query.where(triggers.c.definition["kind"].as_string().in_(kinds))
        if on_only:
            query = query.where(triggers.c.state == "on")
        rows = connection.execute(query.order_by(triggers.c.seq).limit(limit)).mappings()
        return [StoredTrigger.model_validate(row) for row in rows]

    def by_seqs(self, connection: sa.Connection, seqs: Sequence[int], *, lock: bool = False) -> Sequence[StoredTrigger]:
        """Triggers by their `seq`, in that order; locked, they stay as they are until the transaction is over."""
        query = sa.select(triggers).where(triggers.c.seq.in_(seqs)).order_by(triggers.c.seq)
        rows = connection.execute(query.with_for_update() if lock else query).mappings()
        return [StoredTrigger.model_validate(row) for row in rows]

    def due(
        self, connection: sa.Connection, *, run_until: Microseconds, burst_until: Microseconds, limit: int = 2_000
    ) -> Sequence[StoredTrigger]:
        """Triggers that are due at an instant, which is one for those with runs of their own and one for those of bursts."""
        is_due = sa.or_(
            sa.and_(triggers.c.lane == "burst", triggers.c.next_due_at <= burst_until),
            sa.and_(triggers.c.lane == "run", triggers.c.next_due_at <= run_until),
        )
        query = sa.select(triggers).where(triggers.c.next_due_at <= max(run_until, burst_until), is_due)
        rows = connection.execute(query.order_by(triggers.c.next_due_at, triggers.c.seq).limit(limit)).mappings()
        return [StoredTrigger.model_validate(row) for row in rows]

    def next_due_at(
        self, connection: sa.Connection, lane: Literal["run", "burst"], *, workspace: str | None = None
    ) -> Microseconds | None:
        """The first instant at which any trigger of a lane is due."""
        query = sa.select(sa.func.min(triggers.c.next_due_at)).where(triggers.c.next_due_at.is_not(None), triggers.c.lane == lane)
        return connection.execute(query if workspace is None else query.where(triggers.c.workspace == workspace)).scalar()

    def first_due(self, connection: sa.Connection, *, until: Microseconds) -> Mapping[Lane, Microseconds]:
        """The first instant at which a trigger of each lane is due, of those that are due by an instant.

        Where none is, this costs nothing however many triggers there are: the clock asks several times a second.
        """
        return dict(connection.execute(_FIRST_DUE, {"until": until}).tuples().all())

    def count_due(self, connection: sa.Connection, lane: Lane, *, workspace: str, until: Microseconds) -> int:
        """How many triggers of a lane are due by an instant."""
        return connection.execute(_COUNT_DUE, {"of_lane": lane, "of_workspace": workspace, "until": until}).scalar_one()

    def advance(self, connection: sa.Connection, moves: Iterable[Move]) -> None:
        """Note how far triggers have been looked at.

        A trigger that was edited or moved by somebody else since it was read stays as it is: what is due is then found again,
        and the unique key of the ticks keeps it from being claimed twice.
        """
        rows = [
            {
                "its": move.trigger.seq,
                "was": move.trigger.looked_until,
                "of": move.trigger.revision,
                "until": move.looked_until,
                "following": move.next_due_at,
                "places": dict(move.trigger.marks if move.marks is None else move.marks),
            }
            for move in moves
        ]
        if rows:
            connection.execute(_ADVANCE, rows)

    def unmoved(self, connection: sa.Connection, known: Sequence[StoredTrigger]) -> set[int]:
        """Lock triggers until the transaction is over, and tell by their `seq` which of them are as they were read.

        The others were edited, switched or looked at by somebody else since.
        """
        was = {trigger.seq: (trigger.revision, trigger.since, trigger.looked_until) for trigger in known}
        columns = (triggers.c.seq, triggers.c.revision, triggers.c.since, triggers.c.looked_until)
        query = sa.select(*columns).where(triggers.c.seq.in_(was), triggers.c.state == "on").order_by(triggers.c.seq)
        return {seq for seq, *now in connection.execute(query.with_for_update()) if was[seq] == tuple(now)}

    def _close_account(self, connection: sa.Connection, known: StoredTrigger, now: Microseconds, why: str) -> None:
        """Miss what was due while the trigger was as it was, and that nobody has looked at."""
        if known.state != "on" or known.next_due_at is None:
            return
        reason = f"nobody looked after {isoformat(known.looked_until)}, and then the trigger was {why}"
        unseen = (
            NewTick(
                task=known.task_key,
                trigger=known.trigger,
                revision=known.revision,
                due_at=due_at,
                logical_at=known.definition.logical_at(due_at),
                begins_at=due_at,
                lane=known.lane,
                priority=known.priority,
                spec_hash=known.spec_hash,
                inputs={},
                verdict=Verdict.MISSED,
                reason=reason,
            )
            for due_at in due_between(known.definition, known.looked_until, now)
        )
        while some := list(islice(unseen, 1_000)):
            self._ticks.claim_many(connection, some)


_LOCKED_AT_ONCE = 1_000
_ADVANCE = (
    triggers.update()
    .where(
        triggers.c.seq == sa.bindparam("its"),
        triggers.c.looked_until == sa.bindparam("was"),
        triggers.c.revision == sa.bindparam("of"),
        triggers.c.state == "on",
    )
    .values(looked_until=sa.bindparam("until"), next_due_at=sa.bindparam("following"), marks=sa.bindparam("places"))
)

_FIRST_DUE = (
    sa.select(triggers.c.lane, sa.func.min(triggers.c.next_due_at))
    .where(triggers.c.next_due_at <= sa.bindparam("until"))
    .group_by(triggers.c.lane)
)
_COUNT_DUE = sa.select(sa.func.count()).where(
    triggers.c.next_due_at <= sa.bindparam("until"),
    triggers.c.lane == sa.bindparam("of_lane"),
    triggers.c.workspace == sa.bindparam("of_workspace"),
)


def _looking_ahead(wanted: Wanted, now: Microseconds) -> dict[str, Any]:
    """The columns of a trigger that is looked at from now on."""
    return {
        "source": wanted.source,
        "definition": wanted.trigger.model_dump(mode="json"),
        "revision": revision_of(wanted.trigger),
        "lane": wanted.lane,
        "priority": wanted.priority,
        "spec_hash": wanted.spec_hash,
        "state": wanted.state,
        "reason": wanted.reason,
        "since": now,
        "looked_until": now,
        "next_due_at": next_due(wanted.trigger, now) if wanted.state == "on" else None,
        "marks": {},
    }


def _columns(task: TaskKey, name: str) -> dict[str, str]:
    workspace, application, task_name = task
    return {"workspace": workspace, "application": application, "task": task_name, "trigger": name}


def _is(task: TaskKey) -> list[sa.ColumnElement[bool]]:
    return [triggers.c[name] == value for name, value in zip(("workspace", "application", "task"), task, strict=True)]
