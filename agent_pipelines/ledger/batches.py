"""The record of batches and of their shards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.batch import ENDED_BATCH, ENDED_SHARD, BatchStatus, ShardStatus
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import IllegalTransition
from agent_pipelines.core.ids import ids_beginning, new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.store.bulk import update_rows
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_all, insert_new
from agent_pipelines.store.tables import batch_shards, batches

_LIVE = (BatchStatus.SPLITTING, BatchStatus.RUNNING, BatchStatus.MERGING)
_COUNTS = ("done", "failed", "skipped")


class Batch(OfTask):
    """One batch as it stands in the record; `execution_id` is the execution that it stands for, with the merged result."""

    seq: int
    id: str
    trigger: str
    occurrence: str
    spec_hash: str
    execution_id: str
    invocation: Invocation
    run_id: str
    status: BatchStatus
    shard_size: int
    item_count: int
    shard_count: int
    fingerprint: dict[str, JsonValue] | None
    done: int
    failed: int
    skipped: int
    reason: str | None
    created_at: Microseconds
    reopened_at: Microseconds | None
    finished_at: Microseconds | None


class NewShard(BaseModel):
    """A stretch of items, as the splitter found it; `items` are compressed JSON lines, if the source is not read again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    first_position: int
    last_position: int
    seek_hint: int | None = None
    items: bytes | None = None


class Tally(BaseModel):
    """What a shard has come to so far: items done, failed and skipped, their cost and tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: int = 0
    failed: int = 0
    skipped: int = 0
    cost_usd: float = 0.0
    tokens: int = 0


class Shard(BaseModel):
    """One shard as it stands in the record; without its items."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    batch_id: str
    number: int
    first_position: int
    last_position: int
    seek_hint: int | None
    status: ShardStatus
    run_id: str | None
    attempts: int
    beat_at: Microseconds | None
    done: int
    failed: int
    skipped: int
    cost_usd: float
    tokens: int
    reason: str | None
    started_at: Microseconds | None
    finished_at: Microseconds | None

    @property
    def item_count(self) -> int:
        """How many items it has."""
        return self.last_position - self.first_position + 1


@dataclass(frozen=True)
class Progress:
    """How far a batch has come. `per_second` and `remaining_seconds` are None while nothing can be said."""

    status: BatchStatus
    items: int
    done: int
    failed: int
    skipped: int
    shards: dict[ShardStatus, int]
    cost_usd: float
    tokens: int
    elapsed_seconds: float
    per_second: float | None
    remaining_seconds: float | None

    @property
    def open(self) -> int:
        """Items that are not final yet."""
        return self.items - self.done - self.failed - self.skipped


_OF_SHARD = [column for column in batch_shards.c if column.name != "items"]
_HOLD = (
    sa.select(batch_shards.c.number)
    .where(
        batch_shards.c.batch_id == sa.bindparam("of"),
        batch_shards.c.number == sa.bindparam("of_number"),
        batch_shards.c.run_id == sa.bindparam("of_run"),
        sa.text("status = 'running'"),
    )
    .with_for_update()
)


class Batches:
    """Writes and reads batches and shards. All methods take part in the caller's transaction.

    A shard is worked on by one run at a time: whoever writes about its items has `hold` return True in the same transaction.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def open(
        self, connection: sa.Connection, invocation: Invocation, *, execution_id: str, run_id: str, shard_size: int
    ) -> tuple[Batch, bool]:
        """The batch of a tick, and whether it was opened now. `invocation` is what all items have in common."""
        row = {
            "id": new_id(),
            "workspace": invocation.workspace,
            "application": invocation.application,
            "task": invocation.task,
            "trigger": invocation.trigger,
            "occurrence": invocation.occurrence,
            "spec_hash": invocation.spec_hash,
            "execution_id": execution_id,
            "invocation": recordable(invocation.model_dump(mode="json")),
            "run_id": run_id,
            "status": str(BatchStatus.SPLITTING),
            "shard_size": shard_size,
            "created_at": self._clock.now(),
        }
        is_new = insert_new(connection, batches, row) is not None
        found = self.of_tick(connection, invocation.task_key, invocation.trigger, invocation.occurrence)
        assert found is not None
        return found, is_new

    def get(self, connection: sa.Connection, batch_id: str) -> Batch | None:
        """A batch by its id."""
        return self._first(connection, batches.c.id == batch_id)

    def lock(self, connection: sa.Connection, batch_id: str) -> Batch | None:
        """A batch by its id, which no other transaction changes until this one ends."""
        row = connection.execute(sa.select(batches).where(batches.c.id == batch_id).with_for_update()).mappings().first()
        return None if row is None else Batch.model_validate(row)

    def find(self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5) -> Sequence[Batch]:
        """Batches whose id begins so, with or without its dashes, oldest first."""
        ids = ids_beginning(prefix)
        if ids is None:
            return []
        query = sa.select(batches).where(batches.c.workspace == workspace, batches.c.id.between(*ids))
        return [Batch.model_validate(row) for row in connection.execute(query.order_by(batches.c.id).limit(limit)).mappings()]

    def live(self, connection: sa.Connection) -> Sequence[Batch]:
        """Batches of all workspaces that have not ended, oldest first."""
        query = sa.select(batches).where(batches.c.finished_at.is_(None)).order_by(batches.c.seq)
        return [Batch.model_validate(row) for row in connection.execute(query).mappings()]

    def of_tick(self, connection: sa.Connection, task: TaskKey, trigger: str, occurrence: str) -> Batch | None:
        """The batch of a tick."""
        return self._first(connection, *_of_task(task), batches.c.trigger == trigger, batches.c.occurrence == occurrence)

    def of_execution(self, connection: sa.Connection, execution_id: str) -> Batch | None:
        """The batch that an execution stands for."""
        return self._first(connection, batches.c.execution_id == execution_id)

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        status: BatchStatus | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Batch]:
        """Batches, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        c = batches.c
        words = None if status is None else str(status)
        wanted: dict[sa.ColumnElement[Any], object] = {c.application: application, c.task: task, c.status: words}
        query = sa.select(batches).where(c.workspace == workspace, *equal(wanted), *within(c.seq, None, before))
        rows = connection.execute(query.order_by(c.seq.desc()).limit(limit)).mappings()
        return [Batch.model_validate(row) for row in rows]

    def add_shards(self, connection: sa.Connection, batch_id: str, shards: Sequence[NewShard]) -> None:
        """Record stretches of items while the source is split."""
        insert_all(
            connection,
            batch_shards,
            [{"batch_id": batch_id, "status": str(ShardStatus.PENDING), **shard.model_dump()} for shard in shards],
        )

    def unsplit(self, connection: sa.Connection, batch_id: str) -> None:
        """Forget the shards of a batch that is split, as after the process died that did it: it is split anew."""
        splitting = sa.select(batches.c.id).where(batches.c.id == batch_id, batches.c.status == str(BatchStatus.SPLITTING))
        connection.execute(sa.delete(batch_shards).where(batch_shards.c.batch_id.in_(splitting)))

    def split(
        self, connection: sa.Connection, batch_id: str, *, items: int, shards: int, fingerprint: dict[str, JsonValue]
    ) -> Batch:
        """Record that all shards of a batch are there, and may be worked on."""
        found = {"item_count": items, "shard_count": shards, "fingerprint": fingerprint}
        return self._move(connection, batch_id, (BatchStatus.SPLITTING,), BatchStatus.RUNNING, **found)

    def shard(self, connection: sa.Connection, batch_id: str, number: int) -> Shard | None:
        """A shard by its number, from 0."""
        query = sa.select(*_OF_SHARD).where(batch_shards.c.batch_id == batch_id, batch_shards.c.number == number)
        row = connection.execute(query).mappings().first()
        return None if row is None else Shard.model_validate(row)

    def shards(
        self,
        connection: sa.Connection,
        batch_id: str,
        *,
        status: ShardStatus | None = None,
        after: int = -1,
        limit: int = 1_000,
    ) -> Sequence[Shard]:
        """Shards after a number, in order."""
        c = batch_shards.c
        query = sa.select(*_OF_SHARD).where(c.batch_id == batch_id, c.number > after)
        query = query.where(*equal({c.status: None if status is None else str(status)})).order_by(c.number).limit(limit)
        return [Shard.model_validate(row) for row in connection.execute(query).mappings()]

    def items(self, connection: sa.Connection, batch_id: str, number: int) -> bytes | None:
        """The items of a shard as they were kept when it was split, None if they are read from their source."""
        query = sa.select(batch_shards.c["items"]).where(batch_shards.c.batch_id == batch_id, batch_shards.c.number == number)
        found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def claim(
        self,
        connection: sa.Connection,
        batch_id: str,
        number: int,
        run_id: str,
        *,
        beat_before: Microseconds,
        parent: str | None = None,
    ) -> Shard | None:
        """Let a run work on a shard; None if it cannot be worked on now, or another run is at work.

        It can be taken from a run that has said nothing since before `beat_before`, and from the run `parent`, which `run_id`
        continues. What that run still writes about the shard's items is refused.
        """
        c = batch_shards.c
        dead = sa.or_(c.beat_at < beat_before, c.run_id == run_id, c.run_id == parent)
        free = sa.or_(c.status == str(ShardStatus.PENDING), sa.and_(c.status == str(ShardStatus.RUNNING), dead))
        running = sa.exists().where(batches.c.id == c.batch_id, batches.c.status == str(BatchStatus.RUNNING))
        now = self._clock.now()
        change = (
            batch_shards.update()
            .where(c.batch_id == batch_id, c.number == number, free, running)
            .values(status=str(ShardStatus.RUNNING), run_id=run_id, attempts=c.attempts + 1, beat_at=now)
            .values(started_at=sa.func.coalesce(c.started_at, now), reason=None)
            .returning(*_OF_SHARD)
        )
        row = connection.execute(change).mappings().first()
        return None if row is None else Shard.model_validate(row)

    def hold(self, connection: sa.Connection, batch_id: str, number: int, run_id: str) -> bool:
        """Whether a shard is worked on by a run; it stays so until the end of the transaction."""
        found = connection.execute(_HOLD, {"of": batch_id, "of_number": number, "of_run": run_id})
        return found.first() is not None

    def beat(self, connection: sa.Connection, batch_id: str, number: int, run_id: str, tally: Tally) -> None:
        """Say that a run is at work on a shard, and what it came to; nothing happens if the shard is no longer that run's."""
        of = {"batch_id": batch_id, "number": number, "run_id": run_id}
        row = {**of, "beat_at": self._clock.now(), **tally.model_dump()}
        update_rows(connection, batch_shards, [row], keys=tuple(of), where="batch_shards.status = 'running'")

    def end_shard(
        self,
        connection: sa.Connection,
        batch_id: str,
        number: int,
        run_id: str,
        status: ShardStatus,
        *,
        reason: str | None = None,
    ) -> bool:
        """End a run's work on a shard; with status `pending` it is given back. False if it is no longer that run's."""
        c = batch_shards.c
        values: dict[str, Any] = {
            "status": str(status),
            "reason": None if reason is None else recordable_text(reason),
            "finished_at": self._clock.now() if status in ENDED_SHARD else None,
        }
        mine = (c.batch_id == batch_id, c.number == number, c.run_id == run_id, c.status == str(ShardStatus.RUNNING))
        return connection.execute(batch_shards.update().where(*mine).values(values)).rowcount == 1

    def fail_pending(self, connection: sa.Connection, batch_id: str, number: int, *, reason: str) -> bool:
        """End a shard whose run has not come; False if it is pending no longer."""
        return self._end_pending(connection, batch_id, number, ShardStatus.FAILED, reason)

    def cancel_shard(self, connection: sa.Connection, batch_id: str, number: int, run_id: str, *, reason: str) -> bool:
        """Cancel a shard that a run works on or has just given back; False if it is another one's, or has ended."""
        if self.end_shard(connection, batch_id, number, run_id, ShardStatus.CANCELLED, reason=reason):
            return True
        return self._end_pending(connection, batch_id, number, ShardStatus.CANCELLED, reason)

    def is_worked_off(self, connection: sa.Connection, batch_id: str) -> bool:
        """Whether all shards of a split batch have ended."""
        c = batch_shards.c
        ended = c.status.in_([str(status) for status in ENDED_SHARD])
        open_ones = connection.execute(sa.select(sa.func.count()).where(c.batch_id == batch_id, ~ended)).scalar_one()
        batch = self.get(connection, batch_id)
        return batch is not None and batch.status in (BatchStatus.RUNNING, BatchStatus.MERGING) and open_ones == 0

    def begin_merge(self, connection: sa.Connection, batch_id: str) -> Batch:
        """Record that the results of a batch are merged; again, if the process died that did it.

        Raises IllegalTransition if some shard has not ended, or the batch has.
        """
        if not self.is_worked_off(connection, batch_id):
            raise IllegalTransition(f"batch {batch_id} cannot be merged: it has ended, or shards of it have not")
        counts = self._counts(connection, batch_id)
        from_ = (BatchStatus.RUNNING, BatchStatus.MERGING)
        return self._move(connection, batch_id, from_, BatchStatus.MERGING, **{name: counts[name] for name in _COUNTS})

    def finish(self, connection: sa.Connection, batch_id: str, status: BatchStatus, *, reason: str | None = None) -> Batch:
        """End a batch. Raises IllegalTransition if it cannot end so from where it stands."""
        from_ = (BatchStatus.MERGING,) if status is BatchStatus.SUCCEEDED else _LIVE
        counts = self._counts(connection, batch_id)
        values = {name: counts[name] for name in _COUNTS}
        words = None if reason is None else recordable_text(reason)
        return self._move(connection, batch_id, from_, status, reason=words, finished_at=self._clock.now(), **values)

    def cancel(self, connection: sa.Connection, batch_id: str, reason: str) -> Batch | None:
        """Cancel a batch and its shards, also those that are worked on: who does so sees it with the next beat.

        None if it has ended.
        """
        batch = self.get(connection, batch_id)
        if batch is None or batch.finished_at is not None:
            return None
        c = batch_shards.c
        unended = c.status.in_([str(ShardStatus.PENDING), str(ShardStatus.RUNNING)])
        values = {"status": str(ShardStatus.CANCELLED), "reason": recordable_text(reason), "finished_at": self._clock.now()}
        connection.execute(batch_shards.update().where(c.batch_id == batch_id, unended).values(values))
        return self.finish(connection, batch_id, BatchStatus.CANCELLED, reason=reason)

    def reopen(self, connection: sa.Connection, batch_id: str) -> int:
        """Have what a batch that ended has not done be done: items that failed, were cancelled or never began.

        Returns how many shards are pending again. One that was not split to its end is to be split anew. One that has succeeded
        is to stand for another execution from then on. Raises IllegalTransition if the batch has not ended.
        """
        batch = self.get(connection, batch_id)
        is_split = batch is not None and batch.fingerprint is not None
        to = BatchStatus.RUNNING if is_split else BatchStatus.SPLITTING
        now = self._clock.now()
        self._move(connection, batch_id, tuple(ENDED_BATCH), to, reason=None, finished_at=None, reopened_at=now)
        c = batch_shards.c
        undone = sa.or_(c.status.in_([str(ShardStatus.FAILED), str(ShardStatus.CANCELLED)]), c.failed > 0)
        again = {"status": str(ShardStatus.PENDING), "reason": None, "finished_at": None}
        ended_shards = c.status.in_([str(status) for status in ENDED_SHARD])
        return connection.execute(
            batch_shards.update().where(c.batch_id == batch_id, ended_shards, undone).values(again)
        ).rowcount

    def stand_for(self, connection: sa.Connection, batch_id: str, execution_id: str) -> None:
        """Have a batch that is merged again stand for another execution: the one that has succeeded keeps its result."""
        connection.execute(batches.update().where(batches.c.id == batch_id).values(execution_id=execution_id))

    def reopen_shards(self, connection: sa.Connection, batch_id: str, numbers: Collection[int]) -> int:
        """Have what is not done of some shards be done, whether their batch has ended or is at work; returns how many.

        The other shards of the batch stay as they are. Raises IllegalTransition while the batch is split or merged.
        """
        c = batch_shards.c
        undone = sa.or_(c.status.in_([str(ShardStatus.FAILED), str(ShardStatus.CANCELLED)]), c.failed > 0)
        chosen = (c.batch_id == batch_id, c.number.in_(numbers), c.status.in_([str(status) for status in ENDED_SHARD]), undone)
        if connection.execute(sa.select(c.number).where(*chosen).limit(1)).first() is None:
            return 0
        from_ = (BatchStatus.RUNNING, *ENDED_BATCH)
        self._move(connection, batch_id, from_, BatchStatus.RUNNING, reason=None, finished_at=None, reopened_at=self._clock.now())
        again = {"status": str(ShardStatus.PENDING), "reason": None, "finished_at": None}
        return connection.execute(batch_shards.update().where(*chosen).values(again)).rowcount

    def progress(self, connection: sa.Connection, batch_id: str) -> Progress | None:
        """How far a batch has come, as of the last beat of its shards."""
        batch = self.get(connection, batch_id)
        if batch is None:
            return None
        counts = self._counts(connection, batch_id)
        c = batch_shards.c
        query = sa.select(c.status, sa.func.count()).where(c.batch_id == batch_id).group_by(c.status)
        shards = {ShardStatus(status): count for status, count in connection.execute(query).tuples()}
        final = counts["done"] + counts["failed"]
        began = counts["began"] if batch.reopened_at is None else max(counts["began"] or 0, batch.reopened_at)
        until = batch.finished_at or counts["last"]
        worked = 0.0 if began is None or until is None else max(0.0, (until - began) / 1_000_000)
        rate = final / worked if worked and final and batch.reopened_at is None else None
        left = batch.item_count - final - counts["skipped"]
        return Progress(
            status=batch.status,
            items=batch.item_count,
            done=counts["done"],
            failed=counts["failed"],
            skipped=counts["skipped"],
            shards=shards,
            cost_usd=counts["cost_usd"],
            tokens=counts["tokens"],
            elapsed_seconds=((batch.finished_at or self._clock.now()) - batch.created_at) / 1_000_000,
            per_second=rate,
            remaining_seconds=None if not rate or batch.finished_at is not None else left / rate,
        )

    def forget(self, connection: sa.Connection, *, created_before: Microseconds, limit: int) -> int:
        """Remove batches that ended, with their shards; returns how many."""
        old = sa.select(batches.c.id).where(batches.c.created_at < created_before, batches.c.finished_at.is_not(None))
        chosen = old.order_by(batches.c.seq).limit(limit).scalar_subquery()
        return connection.execute(sa.delete(batches).where(batches.c.id.in_(chosen))).rowcount

    def _end_pending(self, connection: sa.Connection, batch_id: str, number: int, status: ShardStatus, reason: str) -> bool:
        c = batch_shards.c
        pending = (c.batch_id == batch_id, c.number == number, c.status == str(ShardStatus.PENDING))
        values = {"status": str(status), "reason": recordable_text(reason), "finished_at": self._clock.now()}
        return connection.execute(batch_shards.update().where(*pending).values(values)).rowcount == 1

    def _counts(self, connection: sa.Connection, batch_id: str) -> dict[str, Any]:
        c = batch_shards.c
        sums = {name: sa.func.coalesce(sa.func.sum(c[name]), 0) for name in Tally.model_fields}
        times = {"began": sa.func.min(c.started_at), "last": sa.func.max(c.beat_at)}
        labelled = [value.label(name) for name, value in (sums | times).items()]
        row = connection.execute(sa.select(*labelled).where(c.batch_id == batch_id)).mappings().one()
        return {**row, **{name: int(row[name]) for name in ("done", "failed", "skipped", "tokens")}}

    def _move(
        self, connection: sa.Connection, batch_id: str, from_: Sequence[BatchStatus], to: BatchStatus, **values: Any
    ) -> Batch:
        standing = batches.c.status.in_([str(status) for status in from_])
        change = batches.update().where(batches.c.id == batch_id, standing).values(status=str(to), **values)
        row = connection.execute(change.returning(*batches.c)).mappings().first()
        if row is None:
            raise IllegalTransition(f"batch {batch_id} cannot become {to} from where it stands")
        return Batch.model_validate(row)

    def _first(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Batch | None:
        row = connection.execute(sa.select(batches).where(*where).limit(1)).mappings().first()
        return None if row is None else Batch.model_validate(row)


def _of_task(task: TaskKey) -> Sequence[sa.ColumnElement[bool]]:
    return [batches.c[name] == value for name, value in zip(("workspace", "application", "task"), task, strict=True)]
