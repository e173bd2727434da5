"""The record of executions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, IllegalTransition, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import TRANSITIONS, CheckResult, Degraded, RunRef, Status
from agent_pipelines.core.ids import ids_beginning, new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.ledger import search
from agent_pipelines.ledger.attempts import OF, SPENT, Attempts
from agent_pipelines.ledger.batches import Tally
from agent_pipelines.ledger.items import BegunAttempt, BegunItem, EndedItem, ItemsOf, Standing
from agent_pipelines.ledger.recordable import error_columns, recordable, recordable_text
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.ledger.waits import StoredWait, Waits
from agent_pipelines.store.bulk import insert_missing, update_rows, upsert_rows_of
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import execution_texts, executions
from agent_pipelines.store.tables.base import one_of
from agent_pipelines.store.window import Window


@dataclass(frozen=True)
class Admission:
    """Whether a run may work on an invocation: `new`, `resumed`, `finished` before, or a `duplicate` of an execution.

    One that waits is `finished` for the runs that come before its outcome; `arrived` is what it has waited for and goes on with.
    """

    outcome: Literal["new", "resumed", "finished", "duplicate"]
    execution: StoredExecution
    arrived: StoredWait | None = None


@dataclass(frozen=True)
class Unfinished:
    """An execution that runs or waits, and the tick that it belongs to."""

    task_key: TaskKey
    id: str
    trigger: str
    occurrence: str
    due_at: Microseconds
    run_id: str


@dataclass(frozen=True)
class Failing:
    """The newest failure of a task."""

    execution_id: str
    error_class: str
    error_message: str | None
    finished_at: Microseconds


_TASK = (executions.c.workspace, executions.c.application, executions.c.task)
_CONTINUED_AT_MOST = 10
"""How often an execution is taken up before its continuation is no longer asked for when its process is lost."""

_NOTHING_YET: dict[str, None] = dict.fromkeys(executions.c.keys())

# Statements of every execution, made once: to put one together takes SQLAlchemy longer than to run it.
_CHANGE = executions.update().where(executions.c.id == OF)
_CHANGE_RETURNING = _CHANGE.returning(*executions.c)

_UNSPENT = sa.bindparam("unspent", type_=sa.Integer)
"""What is written where nothing was spent: unknown, or nothing."""
_HELD = _CHANGE.where(executions.c.run_id == sa.bindparam("of_run", type_=sa.Text), sa.text(one_of("status", (Status.RUNNING,))))

_CLOSE = _CHANGE_RETURNING.where(
    executions.c.id == SPENT.c.execution_id,
    sa.text(one_of("status", (Status.RUNNING, Status.WAITING))),
    executions.c.run_id == sa.func.coalesce(sa.bindparam("of_run", type_=sa.Text), executions.c.run_id),
).values(
    {
        **{name: sa.func.coalesce(SPENT.c[name], _UNSPENT) for name in Usage.model_fields},
        # A sum of the known prices only would look like a total and be too low.
        "cost_usd": sa.case((SPENT.c.unpriced == 0, sa.func.coalesce(SPENT.c.cost_usd, _UNSPENT))),
    }
)
_WAIT = _CHANGE_RETURNING.where(executions.c.run_id == sa.bindparam("of_run", type_=sa.Text))
_USAGE = tuple(Usage.model_fields)
_UNENDED = dict.fromkeys(("finished_at", "error_class", "error_stage", "error_message"))
_RUNNING = "executions.status = 'running'"
_RESUMABLE = f"executions.{one_of('status', (Status.RUNNING, Status.FAILED, Status.CANCELLED))}"
_INDEX = sa.text(
    "INSERT INTO execution_texts (seq, facets, body) VALUES (:seq, :facets, :body) "
    "ON CONFLICT (seq) DO UPDATE SET facets = excluded.facets, body = excluded.body"
)


class Executions:
    """Writes and reads executions. All methods take part in the caller's transaction.

    Their tries are in `attempts`, what they wait for in `waits`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._specs = TaskSpecs(clock)
        self.attempts = Attempts(clock)
        self.waits = Waits(clock)

    def admit(
        self,
        connection: sa.Connection,
        invocation: Invocation,
        run: RunRef,
        *,
        dedupe_key: str | None,
        trace_id: str,
        begins_at: Microseconds = 0,
    ) -> Admission:
        """Let a run work on an invocation, or say which execution already does or did.

        The unique keys decide between runs that come at once: one is admitted, the others are duplicates of it. One that is
        admitted ahead of its time counts from `begins_at`.
        """
        row = {
            "id": new_id(),
            "workspace": invocation.workspace,
            "application": invocation.application,
            "task": invocation.task,
            "spec_hash": invocation.spec_hash,
            "idempotency_key": invocation.idempotency_key,
            "dedupe_key": dedupe_key,
            "trigger": invocation.trigger,
            "origin": str(invocation.origin),
            "occurrence": invocation.occurrence,
            "item": invocation.item,
            "actor": invocation.actor,
            "due_at": invocation.due_at,
            "logical_at": invocation.logical_at,
            "invocation": recordable(invocation.model_dump(mode="json", exclude={"checkpoint"})),
            "run_id": run.run_id,
            "job": run.job,
            "step": run.step,
            "partition": run.partition,
            "status": str(Status.RUNNING),
            "resumptions": 0,
            "attempts": 0,
            "created_at": max(self._clock.now(), begins_at),
            "trace_id": trace_id,
        }
        seq = insert_new(connection, executions, row)
        if seq is not None:
            return Admission("new", StoredExecution.model_validate({**_NOTHING_YET, **row, "seq": seq}))
        same = self._first(connection, executions.c.idempotency_key == invocation.idempotency_key, lock=True)
        if same is None:
            return Admission("duplicate", self._live_with_key(connection, invocation.task_key, dedupe_key))
        ours = run.run_id == same.run_id or (run.resumes and run.parent_run_id == same.run_id)
        if same.status in (Status.SUCCEEDED, Status.SKIPPED):
            return Admission("finished" if ours or run.resumes else "duplicate", same)
        if run.continues is not None and same.status not in (Status.RUNNING, Status.WAITING):
            return Admission("finished", same)  # it has ended since this run was asked for
        if same.status is Status.WAITING or ours or (run.resumes and same.status is not Status.RUNNING):
            wait = self.waits.unsettled(connection, same.id)
            if wait is not None and wait.state != "arrived":
                # The agent is at work on it: nobody asks it again before that has come to its end.
                standing = same if same.status is Status.WAITING else self._wait_again(connection, same.id)
                return Admission("finished" if ours or run.resumes else "duplicate", standing)
            if wait is not None and wait.kind == "lost":
                self.waits.settle(connection, same.id)
                wait = None
            try:
                with connection.begin_nested():
                    return Admission("resumed", self._resume(connection, same, run, wait), wait)
            except IntegrityError:  # another execution has taken the deduplication key since
                return Admission("duplicate", self._live_with_key(connection, invocation.task_key, same.dedupe_key))
        return Admission("duplicate", same)

    def prepare(
        self,
        connection: sa.Connection,
        execution_id: str,
        invocation: Invocation,
        *,
        trimmed: Sequence[str],
        agent: str,
    ) -> None:
        """Record what an agent would be given, where none is asked."""
        connection.execute(_CHANGE, {"of": execution_id, "agent": agent, **_given(invocation, trimmed)})

    def begin(
        self,
        connection: sa.Connection,
        execution_id: str,
        invocation: Invocation,
        *,
        trimmed: Sequence[str],
        number: int,
        run_id: str,
        agent: str,
        node: str,
        begins_at: Microseconds = 0,
    ) -> None:
        """Record what the agent is given, and that the first try of this run begins with it, now or at `begins_at`."""
        given = _given(invocation, trimmed)
        self._hold(connection, execution_id, run_id, attempts=number, agent=agent, node=node, **given)
        self.attempts.start(connection, execution_id, number, run_id=run_id, agent=agent, node=node, begins_at=begins_at)

    def start_attempt(
        self, connection: sa.Connection, execution_id: str, number: int, *, run_id: str, agent: str, node: str
    ) -> None:
        """Record that a further try begins, before the runtime is asked. Raises IllegalTransition if another run has it now."""
        self._hold(connection, execution_id, run_id, attempts=number, agent=agent, node=node)
        self.attempts.start(connection, execution_id, number, run_id=run_id, agent=agent, node=node)

    def close(
        self,
        connection: sa.Connection,
        execution_id: str,
        status: Status,
        *,
        model: str | None = None,
        text: str | None = None,
        output: JsonValue = None,
        checks: Sequence[CheckResult] = (),
        reason: str | None = None,
        error: tuple[ErrorClass, Stage, str] | None = None,
        run_id: str | None = None,
        degraded: Degraded | None = None,
        stale_from: str | None = None,
        cached_from: str | None = None,
        fallback_from: str | None = None,
    ) -> StoredExecution:
        """End an execution; it has spent what its attempts have.

        `stale_from` and `cached_from` are the executions that the result was taken from, `fallback_from` the agent of the task
        where another one has answered.

        With `run_id` only if it is still that run's: one that was taken for lost ends nothing that another has resumed.
        Raises IllegalTransition if it cannot end so from where it stands, which is also where it has ended before.
        """
        closed = self._update(
            connection,
            _CLOSE,
            execution_id,
            of_run=run_id,
            status=str(status),
            finished_at=self._clock.now(),
            model=model,
            text=None if text is None else recordable_text(text),
            output=recordable(output),
            checks=[check.model_dump(mode="json") for check in checks] or None,
            reason=reason,
            unspent=None if cached_from is None else 0,
            degraded=None if degraded is None else str(degraded),
            stale_from=stale_from,
            cached_from=cached_from,
            fallback_from=fallback_from,
            **error_columns(error),
        )
        self._index(connection, closed)
        return closed

    def close_lost(self, connection: sa.Connection, execution_id: str, message: str, *, run_id: str | None = None) -> bool:
        """Close an execution whose process is gone; False if it has ended meanwhile, or waits, or is another run's than `run_id`.

        One whose work goes on elsewhere by its handle, or has come to its end there, is not lost: it waits again. So does one
        that its task lets go on by itself, for the run that does. If an agent was at work, nobody knows what it has done: the
        error's class is `unknown_outcome`, else `internal`.
        """
        stored = self._first(connection, executions.c.id == execution_id, lock=True)
        if stored is None or stored.status is not Status.RUNNING or run_id not in (None, stored.run_id):
            return False
        wait = self.waits.unsettled(connection, execution_id)
        if wait is not None and wait.state == "arrived" and stored.resumptions >= _CONTINUED_AT_MOST:
            self.waits.settle(connection, execution_id)  # it may be what its processes die of
        elif wait is not None:
            self._wait_again(connection, execution_id)
            return False
        at_work = self.attempts.lose(connection, execution_id) > 0
        if self._goes_on(connection, stored, at_work):
            return False
        error_class = ErrorClass.UNKNOWN_OUTCOME if at_work else ErrorClass.INTERNAL
        self.close(connection, execution_id, Status.FAILED, error=(error_class, Stage.INVOKE, message))
        return True

    def give_up(self, connection: sa.Connection, execution_id: str, message: str) -> None:
        """Close an execution that waits and that no run goes on with. Raises IllegalTransition if it has ended."""
        self.attempts.lose(connection, execution_id)
        self.waits.settle(connection, execution_id)
        self.close(connection, execution_id, Status.FAILED, error=(ErrorClass.INTERNAL, Stage.INVOKE, message))

    def wait(self, connection: sa.Connection, execution_id: str, *, run_id: str) -> StoredExecution:
        """Have a run's execution wait: no process holds it until a run takes it up. Raises IllegalTransition if it cannot."""
        return self._update(connection, _WAIT, execution_id, of_run=run_id, status=str(Status.WAITING))

    def take_up(self, connection: sa.Connection, execution_id: str, run: RunRef) -> StoredExecution:
        """Have a run go on with an execution that waits, or whose process is gone, which may have closed it as failed.

        Raises IllegalTransition if it has ended otherwise.
        """
        stored = self._first(connection, executions.c.id == execution_id, lock=True)
        if stored is None or stored.status not in (Status.RUNNING, Status.WAITING, Status.FAILED):
            raise IllegalTransition(f"execution {execution_id} cannot be taken up: it has ended")
        return self._resume(connection, stored, run, None)

    def reopen(self, connection: sa.Connection, execution_id: str, run: RunRef) -> StoredExecution:
        """Have a run go on with an execution that failed or was cancelled. Raises IllegalTransition if it has not."""
        stored = self._first(connection, executions.c.id == execution_id, lock=True)
        if stored is None or stored.status not in (Status.FAILED, Status.CANCELLED):
            raise IllegalTransition(f"execution {execution_id} cannot be reopened: it has neither failed nor been cancelled")
        return self._resume(connection, stored, run, None)

    def admit_items(self, connection: sa.Connection, of: ItemsOf, begun: Sequence[BegunItem]) -> None:
        """Admit items of a shard and begin their first attempts.

        None of them has another execution: the caller has looked, and holds the shard. What is admitted already stays as it is.
        """
        common = {
            "workspace": of.base.workspace,
            "application": of.base.application,
            "task": of.base.task,
            "spec_hash": of.base.spec_hash,
            "trigger": of.base.trigger,
            "origin": str(of.base.origin),
            "occurrence": of.base.occurrence,
            "batch_id": of.batch_id,
            "shard": of.shard,
            "actor": of.base.actor,
            "due_at": of.base.due_at,
            "logical_at": of.base.logical_at,
            "run_id": of.run.run_id,
            "job": of.run.job,
            "step": of.run.step,
            "partition": of.run.partition,
            "status": str(Status.RUNNING),
            "resumptions": 0,
            "prompt_version": of.base.prompt_version,
        }
        rows = [
            {
                **common,
                "id": each.id,
                "item": each.item,
                "position": each.position,
                "idempotency_key": each.idempotency_key,
                "trace_id": each.trace_id,
                "invocation": each.invocation,
                "trimmed": each.trimmed or None,
                "attempts": each.attempt,
                "agent": each.agent,
                "node": each.node,
                "created_at": each.at,
            }
            for each in begun
        ]
        insert_missing(connection, executions, rows)
        self.attempts.start_many(connection, begun, run_id=of.run.run_id)

    def resume_items(self, connection: sa.Connection, of: ItemsOf, begun: Sequence[BegunItem]) -> None:
        """Have a run go on with items that failed, were cancelled or ran in a process that is gone, each with a new attempt."""
        ids = [each.id for each in begun]
        self.attempts.lose_many(connection, ids)
        resumed = executions.update().where(executions.c.id.in_(ids))
        connection.execute(resumed.values(resumptions=executions.c.resumptions + 1))
        rows = [
            {
                "id": each.id,
                "status": str(Status.RUNNING),
                "run_id": of.run.run_id,
                "job": of.run.job,
                "step": of.run.step,
                "partition": of.run.partition,
                "invocation": each.invocation,
                "trimmed": each.trimmed or None,
                "attempts": each.attempt,
                "agent": each.agent,
                "node": each.node,
                **_UNENDED,
            }
            for each in begun
        ]
        update_rows(connection, executions, rows, keys=("id",), where=_RESUMABLE)
        self.attempts.start_many(connection, begun, run_id=of.run.run_id)

    def start_attempts(self, connection: sa.Connection, begun: Sequence[BegunAttempt], *, run_id: str) -> None:
        """Record that further attempts of items begin, before the runtimes are asked."""
        self.attempts.start_many(connection, begun, run_id=run_id)
        rows = [{"id": each.id, "attempts": each.attempt, "agent": each.agent, "node": each.node} for each in begun]
        update_rows(connection, executions, rows, keys=("id",), where=_RUNNING)

    def end_items(self, connection: sa.Connection, of: ItemsOf, ended: Sequence[EndedItem]) -> set[str]:
        """End items of a run; returns the ids of those that ended now, for one that somebody has cancelled keeps that end."""
        rows = [
            {
                "id": each.id,
                "run_id": of.run.run_id,
                "status": str(each.status),
                "finished_at": each.at,
                "model": each.model,
                "text": each.text,
                "output": each.output,
                "checks": each.checks or None,
                **{name: getattr(each.spent, name) for name in _USAGE},
                **error_columns(each.error),
            }
            for each in ended
        ]
        found = update_rows(connection, executions, rows, keys=("id", "run_id"), where=_RUNNING, returning="executions.id")
        closed: set[str] = {row[0] for row in found}
        base = of.base
        texts = [
            {
                "id": each.id,
                **search.words_of(
                    search.Facets(base.workspace, base.application, base.task, each.status, base.origin),
                    None if each.error is None else error_columns(each.error)["error_message"],
                    None,
                    each.text,
                ),
            }
            for each in ended
            if each.id in closed
        ]
        upsert_rows_of(connection, execution_texts, texts, key="seq", of=executions, by="id")
        return closed

    def cancel_items(self, connection: sa.Connection, batch_id: str, reason: str, *, shard: int | None = None) -> int:
        """Close what runs of a batch as cancelled, or of one shard; returns how many. They are not found by words."""
        c = executions.c
        running = [c.batch_id == batch_id, c.status == str(Status.RUNNING), *equal({c.shard: shard})]
        ids = connection.execute(sa.select(c.id).where(*running).with_for_update()).scalars().all()
        self.attempts.lose_many(connection, ids)
        values = {"status": str(Status.CANCELLED), "finished_at": self._clock.now()}
        error = error_columns((ErrorClass.CANCELLED, Stage.INVOKE, reason))
        return connection.execute(executions.update().where(*running).values(values | error)).rowcount

    def standings_of_shard(self, connection: sa.Connection, batch_id: str, shard: int) -> Sequence[Standing]:
        """Where the items of a shard stand that have an execution."""
        c = executions.c
        columns = (c.id, c.position, c.status, c.attempts, c.finished_at, c.trace_id)
        query = sa.select(*columns).where(c.batch_id == batch_id, c.shard == shard)
        return [
            Standing(execution_id, position, Status(status), *others)
            for execution_id, position, status, *others in connection.execute(query)
        ]

    def tally_of_shard(self, connection: sa.Connection, batch_id: str, shard: int) -> Tally:
        """What the items of a shard have come to, by their executions: cancelled ones have failed, skipped ones have none."""
        c = executions.c
        tokens = sa.func.coalesce(c.input_tokens, 0) + sa.func.coalesce(c.output_tokens, 0)
        sums = (
            sa.func.count(sa.case((c.status == str(Status.SUCCEEDED), 1))),
            sa.func.count(sa.case((c.status.in_([str(Status.FAILED), str(Status.CANCELLED)]), 1))),
            sa.func.coalesce(sa.func.sum(c.cost_usd), 0.0),
            sa.func.coalesce(sa.func.sum(tokens), 0),
        )
        row = connection.execute(sa.select(*sums).where(c.batch_id == batch_id, c.shard == shard)).one()
        done, failed, cost_usd, spent = row
        return Tally(done=done, failed=failed, cost_usd=cost_usd, tokens=int(spent))

    def get(self, connection: sa.Connection, execution_id: str) -> StoredExecution | None:
        """An execution by its id."""
        return self._first(connection, executions.c.id == execution_id)

    def find(
        self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5
    ) -> Sequence[StoredExecution]:
        """Executions whose id begins so, with or without its dashes, oldest first."""
        ids = ids_beginning(prefix)
        if ids is None:
            return []
        query = sa.select(executions).where(executions.c.workspace == workspace, executions.c.id.between(*ids))
        return [
            StoredExecution.model_validate(row)
            for row in connection.execute(query.order_by(executions.c.id).limit(limit)).mappings()
        ]

    def standings(self, connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        """The status of executions by their ids, and how often each was resumed."""
        query = sa.select(executions.c.id, executions.c.status, executions.c.resumptions).where(executions.c.id.in_(ids))
        return {execution_id: (status, resumptions) for execution_id, status, resumptions in connection.execute(query)}

    def of_run(self, connection: sa.Connection, run_id: str, task: TaskKey) -> StoredExecution | None:
        """The newest execution of a task that a Dagster run admitted or resumed; items of batches are left out."""
        return self._first(connection, executions.c.run_id == run_id, _of_task(task), _WHOLE)

    def of_key(self, connection: sa.Connection, idempotency_key: str) -> StoredExecution | None:
        """The execution of an invocation, by its key."""
        return self._first(connection, executions.c.idempotency_key == idempotency_key)

    def not_for(self, connection: sa.Connection, run_id: str, idempotency_keys: Collection[str]) -> set[str]:
        """Those of the invocations, by key, that a run has no more to do with: closed by somebody, or another run's."""
        ended = executions.c.status.in_([str(Status.CANCELLED), str(Status.FAILED)])
        elsewhere = sa.or_(executions.c.run_id != run_id, ended)
        query = sa.select(executions.c.idempotency_key).where(executions.c.idempotency_key.in_(idempotency_keys), elsewhere)
        return set(connection.execute(query).scalars())

    def abandon(self, connection: sa.Connection, run_id: str, reason: str) -> int:
        """Close what a run has admitted and will not work on any more, as cancelled; returns how many."""
        live = executions.c.status == str(Status.RUNNING)
        left = connection.execute(sa.select(executions.c.id).where(executions.c.run_id == run_id, live)).scalars().all()
        return sum(self.cancel(connection, execution_id, reason) for execution_id in left)

    def ended_in(
        self, connection: sa.Connection, run_id: str, *, finished_from: Microseconds, limit: int = 10_000
    ) -> Sequence[StoredExecution]:
        """Executions of a run that ended at or after an instant, oldest first."""
        query = sa.select(executions).where(executions.c.run_id == run_id, executions.c.finished_at >= finished_from)
        rows = connection.execute(query.order_by(executions.c.seq).limit(limit)).mappings()
        return [StoredExecution.model_validate(row) for row in rows]

    def failing(
        self, connection: sa.Connection, *, workspace: str, job: str, since: Microseconds, limit: int = 200
    ) -> Mapping[str, Failing]:
        """The tasks, by path, whose newest failure by a job was followed by no success; those that failed last come first."""
        later = executions.alias("later")
        same = [later.c[name] == executions.c[name] for name in ("workspace", "application", "task")]
        recovered = sa.exists().where(*same, later.c.seq > executions.c.seq, later.c.status == str(Status.SUCCEEDED))
        recovered = recovered.where(later.c.batch_id.is_(None))
        query = sa.select(
            executions.c.application,
            executions.c.task,
            executions.c.id,
            executions.c.error_class,
            executions.c.error_message,
            executions.c.finished_at,
        ).where(
            executions.c.workspace == workspace,
            executions.c.status == str(Status.FAILED),
            executions.c.job == job,
            executions.c.created_at >= since,
            _WHOLE,
            ~recovered,
        )
        after, _ = search.bounds(connection, since, None, None)
        if after is not None:
            query = query.where(executions.c.seq > after)
        found: dict[str, Failing] = {}
        for application, task, *rest in connection.execute(query.order_by(executions.c.seq.desc()).limit(limit)).all():
            found.setdefault(f"{application}/{task}", Failing(*rest))
        return found

    def latest_success(self, connection: sa.Connection, task: TaskKey) -> StoredExecution | None:
        """The newest execution of a task that succeeded; items of batches are left out, the batch's own execution is not."""
        succeeded = executions.c.status == str(Status.SUCCEEDED)
        return self._first(connection, _of_task(task), succeeded, _WHOLE)

    def fresh_success(self, connection: sa.Connection, task: TaskKey, *, finished_from: Microseconds) -> StoredExecution | None:
        """The newest success of a task that is what was asked for, and that ended at or after an instant."""
        succeeded = (executions.c.status == str(Status.SUCCEEDED), executions.c.degraded.is_(None))
        return self._first(connection, _of_task(task), _WHOLE, *succeeded, executions.c.finished_at >= finished_from)

    def usual_duration(self, connection: sa.Connection, task: TaskKey, *, of: int = 20) -> float | None:
        """The median of how long the newest successes of a task took, in seconds; None if there is none."""
        c = executions.c
        succeeded = (c.status == str(Status.SUCCEEDED), c.degraded.is_(None), c.cached_from.is_(None))
        query = sa.select(c.finished_at - c.created_at).where(_of_task(task), _WHOLE, *succeeded)
        query = query.order_by(c.seq.desc()).limit(of)
        taken = list(connection.execute(query).scalars())
        return max(0.0, median(taken) / 1_000_000) if taken else None

    def running(self, connection: sa.Connection, *, created_before: Microseconds, limit: int = 500) -> Sequence[StoredExecution]:
        """Executions that run since before an instant, oldest first; items of batches are left out, their shards are watched."""
        running = (executions.c.status == str(Status.RUNNING), _WHOLE)
        query = sa.select(executions).where(*running, executions.c.created_at < created_before)
        return [
            StoredExecution.model_validate(row)
            for row in connection.execute(query.order_by(executions.c.seq).limit(limit)).mappings()
        ]

    def unfinished(self, connection: sa.Connection) -> Sequence[Unfinished]:
        """Executions that run or wait, of all tasks; items of batches are left out."""
        columns = (
            *_TASK,
            executions.c.id,
            executions.c.trigger,
            executions.c.occurrence,
            executions.c.due_at,
            executions.c.run_id,
        )
        live = executions.c.status.in_([str(Status.RUNNING), str(Status.WAITING)])
        return [
            Unfinished((workspace, application, task), *others)
            for workspace, application, task, *others in connection.execute(sa.select(*columns).where(live, _WHOLE)).all()
        ]

    def cancel(self, connection: sa.Connection, execution_id: str, reason: str) -> bool:
        """Close an execution as cancelled, whoever works on it; False if it has ended. Who works on it sees it and stops."""
        stored = self._first(connection, executions.c.id == execution_id, lock=True)
        if stored is None or stored.status not in (Status.RUNNING, Status.WAITING):
            return False
        wait = self.waits.cancel(connection, execution_id)
        if wait is not None:
            self.attempts.finish(
                connection,
                execution_id,
                wait.attempt,
                "cancelled",
                usage=wait.spent,
                model=wait.model,
                handle=wait.handle,
                error=(ErrorClass.CANCELLED, Stage.INVOKE, reason),
            )
        self.attempts.lose(connection, execution_id)
        self.close(connection, execution_id, Status.CANCELLED, error=(ErrorClass.CANCELLED, Stage.INVOKE, reason))
        return True

    def forget(self, connection: sa.Connection, *, created_before: Microseconds, limit: int) -> int:
        """Remove executions that ended, with all that belongs to them; returns how many. Those that run or wait stay."""
        old = (
            sa.select(executions.c.id)
            .where(executions.c.created_at < created_before, executions.c.finished_at.is_not(None))
            .order_by(executions.c.created_at)
            .limit(limit)
        )
        return connection.execute(sa.delete(executions).where(executions.c.id.in_(old.scalar_subquery()))).rowcount

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        status: Status | None = None,
        origin: Origin | None = None,
        run_id: str | None = None,
        created_from: Microseconds | None = None,
        created_to: Microseconds | None = None,
        text: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[StoredExecution]:
        """Executions, newest first, a page at a time: `before` is the `seq` of the last one of the page before.

        `text` is words that the answer, the error or the task's name must hold, all of them.
        """
        query = sa.select(executions).where(executions.c.workspace == workspace)
        wanted: dict[sa.ColumnElement[Any], str | None] = {
            executions.c.application: application,
            executions.c.task: task,
            executions.c.status: None if status is None else str(status),
            executions.c.origin: None if origin is None else str(origin),
            executions.c.run_id: run_id,
        }
        query = query.where(*equal(wanted), *within(executions.c.created_at, created_from, created_to))
        after, before = search.bounds(connection, created_from, created_to, before)
        if after is not None:
            query = query.where(executions.c.seq > after)
        if before is not None:
            query = query.where(executions.c.seq < before)
        parts = iter([query.order_by(executions.c.seq.desc())])
        if text is not None and text.split():
            facets = search.Facets(workspace=workspace, application=application, task=task, status=status, origin=origin)
            parts = search.with_words(connection, next(parts), text, facets, after, before, limit)
        rows: list[sa.RowMapping] = []
        for part in parts:
            rows += connection.execute(part.limit(limit - len(rows))).mappings()
            if len(rows) == limit:
                break
        return [StoredExecution.model_validate(row) for row in rows]

    def rows(self, connection: sa.Connection, columns: Sequence[str], window: Window) -> Sequence[Sequence[Any]]:
        """Chosen columns of the executions created in a stretch of time, oldest first; for analysis of many at once."""
        query = sa.select(*(executions.c[name] for name in columns)).where(*window.of(executions, executions.c.created_at))
        return connection.execute(query.order_by(executions.c.seq)).all()

    def _update(self, connection: sa.Connection, change: sa.Executable, execution_id: str, **values: Any) -> StoredExecution:
        try:
            row = connection.execute(change, {"of": execution_id, **values}).mappings().first()
        except IntegrityError as error:
            if "illegal transition" in str(error.orig):
                raise IllegalTransition(f"execution {execution_id} cannot become {values.get('status')}") from error
            raise
        if row is None:
            raise IllegalTransition(f"execution {execution_id} cannot become {values.get('status')}: it is not running here")
        return StoredExecution.model_validate(row)

    def _hold(self, connection: sa.Connection, execution_id: str, run_id: str, **values: Any) -> None:
        """Change an execution that a run still has. Raises IllegalTransition if another one has it, or nobody."""
        changed = connection.execute(_HELD, {"of": execution_id, "of_run": run_id, **values}).rowcount
        if not changed:
            raise IllegalTransition(f"execution {execution_id} is no longer run {run_id}'s")

    def _goes_on(self, connection: sa.Connection, stored: StoredExecution, at_work: bool) -> bool:
        """Have a lost execution go on by itself if its task says so; one that is a part of a run goes on with that run only."""
        spec = self._specs.get(connection, stored.spec_hash)
        if (
            spec is None
            or spec.batch is not None
            or stored.item is not None
            or stored.resumptions >= spec.retry.resumptions(at_work=at_work)
        ):
            return False
        deadline_at = self._clock.now() + round(spec.timeout.total * 1_000_000)
        self.waits.lose(connection, new_id(), stored.id, attempt=stored.attempts, deadline_at=deadline_at)
        self._update(connection, _CHANGE_RETURNING, stored.id, status=str(Status.WAITING))
        return True

    def _wait_again(self, connection: sa.Connection, execution_id: str) -> StoredExecution:
        self.waits.wait_again(connection, execution_id)
        return self._update(connection, _CHANGE_RETURNING, execution_id, status=str(Status.WAITING))

    def _resume(
        self, connection: sa.Connection, stored: StoredExecution, run: RunRef, arrived: StoredWait | None
    ) -> StoredExecution:
        if arrived is None:  # else the attempt that has waited goes on
            self.attempts.lose(connection, stored.id)
        change: dict[str, Any] = {} if stored.status is Status.RUNNING else {"status": str(Status.RUNNING)}
        assert stored.status is Status.RUNNING or Status.RUNNING in TRANSITIONS[stored.status]
        return self._update(
            connection,
            _CHANGE_RETURNING,
            stored.id,
            **change,
            run_id=run.run_id,
            job=run.job,
            step=run.step,
            resumptions=stored.resumptions + 1,
            finished_at=None,
            error_class=None,
            error_stage=None,
            error_message=None,
            degraded=None,
        )

    def _live_with_key(self, connection: sa.Connection, task: TaskKey, dedupe_key: str | None) -> StoredExecution:
        live = executions.c.status.in_([str(Status.RUNNING), str(Status.WAITING), str(Status.SUCCEEDED)])
        return self._one(connection, _of_task(task), executions.c.dedupe_key == dedupe_key, live)

    def _index(self, connection: sa.Connection, closed: StoredExecution) -> None:
        connection.execute(_INDEX, {"seq": closed.seq, **search.searchable(closed)})

    def _first(self, connection: sa.Connection, *where: sa.ColumnElement[bool], lock: bool = False) -> StoredExecution | None:
        query = sa.select(executions).where(*where).order_by(executions.c.seq.desc()).limit(1)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else StoredExecution.model_validate(row)

    def _one(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> StoredExecution:
        stored = self._first(connection, *where)
        if stored is None:
            raise IllegalTransition("the execution has vanished from the record")
        return stored


def _given(invocation: Invocation, trimmed: Sequence[str]) -> dict[str, Any]:
    return {
        "invocation": recordable(invocation.model_dump(mode="json", exclude={"checkpoint"})),
        "prompt_version": invocation.prompt_version,
        "session_id": invocation.session_id,
        "trimmed": list(trimmed) or None,
    }


_WHOLE = executions.c.batch_id.is_(None)  # no item of a batch


def _of_task(task: TaskKey) -> sa.ColumnElement[bool]:
    workspace, application, name = task
    return sa.and_(executions.c.workspace == workspace, executions.c.application == application, executions.c.task == name)
