"""The record of executions and their attempts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, IllegalTransition, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import TRANSITIONS, CheckResult, ExecutionResult, RunRef, Status
from agent_pipelines.core.ids import dashed, new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import attempts, execution_texts, executions

_SEARCHED = 200_000  # characters of an answer that the search reads


class StoredExecution(BaseModel):
    """One execution as it stands in the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    workspace: str
    application: str
    task: str
    spec_hash: str
    idempotency_key: str
    dedupe_key: str | None
    trigger: str
    origin: Origin
    occurrence: str
    item: str | None
    actor: str
    due_at: Microseconds
    logical_at: Microseconds
    invocation: Invocation
    run_id: str
    job: str | None
    step: str | None
    partition: str | None
    resumptions: int
    status: Status
    created_at: Microseconds
    finished_at: Microseconds | None
    attempts: int
    agent: str | None
    node: str | None
    model: str | None
    prompt_version: str | None
    session_id: str | None
    trace_id: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    cost_usd: float | None
    text: str | None
    output: JsonValue
    checks: tuple[CheckResult, ...] | None
    trimmed: tuple[str, ...] | None
    reason: str | None
    error_class: ErrorClass | None
    error_stage: Stage | None
    error_message: str | None

    @property
    def task_key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)

    @property
    def path(self) -> str:
        """`application/task`."""
        return f"{self.application}/{self.task}"

    @property
    def usage(self) -> Usage:
        """What all attempts spent together."""
        return Usage(**{name: getattr(self, name) for name in Usage.model_fields})

    @property
    def duration_seconds(self) -> float | None:
        """From admission to the end; None while it runs."""
        return None if self.finished_at is None else (self.finished_at - self.created_at) / 1_000_000

    def result(self) -> ExecutionResult:
        """The outcome as the caller of the runner sees it."""
        return ExecutionResult(
            execution_id=self.id,
            status=self.status,
            reason=self.reason,
            text=self.text or "",
            output=self.output,
            checks=self.checks or (),
            usage=self.usage,
            attempts=self.attempts,
            duration_seconds=self.duration_seconds or 0.0,
            agent=self.agent,
            node=self.node,
            model=self.model,
            prompt_version=self.prompt_version,
            session_id=self.session_id,
            trace_id=self.trace_id,
            error_class=self.error_class,
            error_stage=self.error_stage,
            error_message=self.error_message,
            trimmed=self.trimmed or (),
        )


class StoredAttempt(BaseModel):
    """One try of an execution as it stands in the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    execution_id: str
    number: int
    run_id: str
    agent: str
    node: str
    model: str | None
    status: Literal["running", "succeeded", "failed", "cancelled", "lost"]
    started_at: Microseconds
    finished_at: Microseconds | None
    error_class: ErrorClass | None
    error_stage: Stage | None
    error_message: str | None
    error_status: int | None
    retry_decision: str | None
    retry_delay_us: int | None
    handle: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    cost_usd: float | None

    @property
    def usage(self) -> Usage:
        """What this try spent."""
        return Usage(**{name: getattr(self, name) for name in Usage.model_fields})


@dataclass(frozen=True)
class Admission:
    """Whether a run may work on an invocation: `new`, `resumed`, `finished` before, or a `duplicate` of an execution."""

    outcome: Literal["new", "resumed", "finished", "duplicate"]
    execution: StoredExecution


class Executions:
    """Writes and reads executions and attempts. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def admit(
        self, connection: sa.Connection, invocation: Invocation, run: RunRef, *, dedupe_key: str | None, trace_id: str
    ) -> Admission:
        """Let a run work on an invocation, or say which execution already does or did.

        The unique keys decide between runs that come at once: one is admitted, the others are duplicates of it.
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
            "invocation": recordable(invocation.model_dump(mode="json")),
            "run_id": run.run_id,
            "job": run.job,
            "step": run.step,
            "partition": run.partition,
            "status": str(Status.RUNNING),
            "resumptions": 0,
            "attempts": 0,
            "created_at": self._clock.now(),
            "trace_id": trace_id,
        }
        if insert_new(connection, executions, row):
            return Admission("new", self._one(connection, executions.c.id == row["id"]))
        same = self._first(connection, executions.c.idempotency_key == invocation.idempotency_key, lock=True)
        if same is None:
            return Admission("duplicate", self._live_with_key(connection, invocation.task_key, dedupe_key))
        ours = run.run_id == same.run_id or (run.resumes and run.parent_run_id == same.run_id)
        if same.status in (Status.SUCCEEDED, Status.SKIPPED):
            return Admission("finished" if ours or run.resumes else "duplicate", same)
        if same.status is Status.WAITING or ours or (run.resumes and same.status is not Status.RUNNING):
            try:
                with connection.begin_nested():
                    self._resume(connection, same, run)
            except IntegrityError:  # another execution has taken the deduplication key since
                return Admission("duplicate", self._live_with_key(connection, invocation.task_key, same.dedupe_key))
            return Admission("resumed", self._one(connection, executions.c.id == same.id))
        return Admission("duplicate", same)

    def compose(self, connection: sa.Connection, execution_id: str, invocation: Invocation, *, trimmed: Sequence[str]) -> None:
        """Record what the agent is given."""
        self._update(
            connection,
            execution_id,
            invocation=recordable(invocation.model_dump(mode="json")),
            prompt_version=invocation.prompt_version,
            session_id=invocation.session_id,
            trimmed=list(trimmed) or None,
        )

    def start_attempt(
        self, connection: sa.Connection, execution_id: str, number: int, *, run_id: str, agent: str, node: str
    ) -> None:
        """Record that a try begins, before the runtime is asked."""
        connection.execute(
            attempts.insert().values(
                execution_id=execution_id,
                number=number,
                run_id=run_id,
                agent=agent,
                node=node,
                status="running",
                started_at=self._clock.now(),
            )
        )
        self._update(connection, execution_id, attempts=number, agent=agent, node=node)

    def finish_attempt(
        self,
        connection: sa.Connection,
        execution_id: str,
        number: int,
        status: Literal["succeeded", "failed", "cancelled"],
        *,
        usage: Usage,
        model: str | None = None,
        error: tuple[ErrorClass, Stage, str] | None = None,
        error_status: int | None = None,
        retry_decision: str | None = None,
        retry_delay: float | None = None,
    ) -> None:
        """Record how a try ended; `retry_delay` is in seconds."""
        values: dict[str, Any] = {
            "status": status,
            "finished_at": self._clock.now(),
            "model": model,
            "retry_decision": retry_decision,
            "retry_delay_us": None if retry_delay is None else round(retry_delay * 1_000_000),
            "error_status": error_status,
            **usage.model_dump(),
            **_error_columns(error),
        }
        connection.execute(attempts.update().where(_attempt(execution_id, number)).values(**values))

    def record_handle(self, connection: sa.Connection, execution_id: str, number: int, handle: str) -> None:
        """Record the runtime's own name of a try."""
        connection.execute(attempts.update().where(_attempt(execution_id, number)).values(handle=handle))

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
    ) -> StoredExecution:
        """End an execution; it has spent what its attempts have.

        Raises IllegalTransition if it cannot end so from where it stands.
        """
        self._update(
            connection,
            execution_id,
            status=str(status),
            finished_at=self._clock.now(),
            model=model,
            text=None if text is None else recordable_text(text),
            output=recordable(output),
            checks=[check.model_dump(mode="json") for check in checks] or None,
            reason=reason,
            **_total_usage(self.attempts_of(connection, execution_id)).model_dump(),
            **_error_columns(error),
        )
        closed = self._one(connection, executions.c.id == execution_id)
        self._index(connection, closed)
        return closed

    def close_lost(self, connection: sa.Connection, execution_id: str, message: str) -> bool:
        """Close an execution whose process is gone; False if it has ended meanwhile."""
        stored = self._first(connection, executions.c.id == execution_id, lock=True)
        if stored is None or stored.status is not Status.RUNNING:
            return False
        self._lose_attempts(connection, execution_id)
        self.close(connection, execution_id, Status.FAILED, error=(ErrorClass.INTERNAL, Stage.INVOKE, message))
        return True

    def get(self, connection: sa.Connection, execution_id: str) -> StoredExecution | None:
        """An execution by its id."""
        return self._first(connection, executions.c.id == execution_id)

    def find(
        self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5
    ) -> Sequence[StoredExecution]:
        """Executions whose id begins so, with or without its dashes, oldest first."""
        digits = prefix.replace("-", "").lower()
        if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
            return []
        # A range of whole ids, which the index answers whatever the collation of the database.
        first, last = (dashed(digits.ljust(32, fill)) for fill in "0f")
        query = sa.select(executions).where(executions.c.workspace == workspace, executions.c.id.between(first, last))
        return [
            StoredExecution.model_validate(row)
            for row in connection.execute(query.order_by(executions.c.id).limit(limit)).mappings()
        ]

    def of_run(self, connection: sa.Connection, run_id: str, task: TaskKey) -> StoredExecution | None:
        """The newest execution of a task that a Dagster run admitted or resumed."""
        return self._first(connection, executions.c.run_id == run_id, _of_task(task))

    def latest_success(self, connection: sa.Connection, task: TaskKey) -> StoredExecution | None:
        """The newest execution of a task that succeeded."""
        return self._first(connection, _of_task(task), executions.c.status == str(Status.SUCCEEDED))

    def running(self, connection: sa.Connection, *, created_before: Microseconds, limit: int = 500) -> Sequence[StoredExecution]:
        """Executions that run since before an instant, oldest first."""
        query = sa.select(executions).where(executions.c.status == str(Status.RUNNING), executions.c.created_at < created_before)
        return [
            StoredExecution.model_validate(row)
            for row in connection.execute(query.order_by(executions.c.seq).limit(limit)).mappings()
        ]

    def attempts_of(self, connection: sa.Connection, execution_id: str) -> Sequence[StoredAttempt]:
        """The tries of an execution in order."""
        query = sa.select(attempts).where(attempts.c.execution_id == execution_id).order_by(attempts.c.number)
        return [StoredAttempt.model_validate(row) for row in connection.execute(query).mappings()]

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
        equal: Mapping[Any, object] = {
            executions.c.application: application,
            executions.c.task: task,
            executions.c.status: status,
            executions.c.origin: origin,
            executions.c.run_id: run_id,
        }
        for column, value in equal.items():
            if value is not None:
                query = query.where(column == str(value))
        if created_from is not None:
            query = query.where(executions.c.created_at >= created_from)
        if created_to is not None:
            query = query.where(executions.c.created_at < created_to)
        if before is not None:
            query = query.where(executions.c.seq < before)
        if text is not None and text.split():
            query = query.where(_has_words(connection, text))
        rows = connection.execute(query.order_by(executions.c.seq.desc()).limit(limit)).mappings()
        return [StoredExecution.model_validate(row) for row in rows]

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
        """Chosen columns of the executions created in a stretch of time, oldest first; for analysis of many at once."""
        query = sa.select(*(executions.c[name] for name in columns)).where(executions.c.workspace == workspace)
        query = _within(query, executions.c.created_at, application, task, since, until)
        return connection.execute(query.order_by(executions.c.seq)).all()

    def attempt_rows(
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
        """Chosen columns of the attempts begun in a stretch of time, `application` and `task` among them, oldest first."""
        of_task = {name: executions.c[name] for name in ("application", "task")}
        query = sa.select(*(of_task[name] if name in of_task else attempts.c[name] for name in columns))
        query = query.join_from(attempts, executions).where(executions.c.workspace == workspace)
        query = _within(query, attempts.c.started_at, application, task, since, until)
        return connection.execute(query.order_by(executions.c.seq, attempts.c.number)).all()

    def _update(self, connection: sa.Connection, execution_id: str, **values: Any) -> None:
        try:
            connection.execute(executions.update().where(executions.c.id == execution_id).values(**values))
        except IntegrityError as error:
            if "illegal transition" in str(error.orig):
                raise IllegalTransition(f"execution {execution_id} cannot become {values.get('status')}") from error
            raise

    def _resume(self, connection: sa.Connection, stored: StoredExecution, run: RunRef) -> None:
        self._lose_attempts(connection, stored.id)
        change: dict[str, Any] = {} if stored.status is Status.RUNNING else {"status": str(Status.RUNNING)}
        assert stored.status is Status.RUNNING or Status.RUNNING in TRANSITIONS[stored.status]
        self._update(
            connection,
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
        )

    def _lose_attempts(self, connection: sa.Connection, execution_id: str) -> None:
        connection.execute(
            attempts.update()
            .where(attempts.c.execution_id == execution_id, attempts.c.status == "running")
            .values(status="lost", finished_at=self._clock.now())
        )

    def _live_with_key(self, connection: sa.Connection, task: TaskKey, dedupe_key: str | None) -> StoredExecution:
        live = executions.c.status.in_([str(Status.RUNNING), str(Status.WAITING), str(Status.SUCCEEDED)])
        return self._one(connection, _of_task(task), executions.c.dedupe_key == dedupe_key, live)

    def _index(self, connection: sa.Connection, closed: StoredExecution) -> None:
        body = "\n".join(part for part in (closed.path, closed.error_message, closed.reason, closed.text) if part)[:_SEARCHED]
        connection.execute(sa.delete(execution_texts).where(execution_texts.c.seq == closed.seq))
        connection.execute(execution_texts.insert().values(seq=closed.seq, body=body))

    def _first(self, connection: sa.Connection, *where: sa.ColumnElement[bool], lock: bool = False) -> StoredExecution | None:
        query = sa.select(executions).where(*where).order_by(executions.c.seq.desc()).limit(1)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else StoredExecution.model_validate(row)

    def _one(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> StoredExecution:
        stored = self._first(connection, *where)
        if stored is None:
            raise IllegalTransition("the execution has vanished from the record")
        return stored


def _total_usage(tries: Sequence[StoredAttempt]) -> Usage:
    total = sum((attempt.usage for attempt in tries), start=Usage())
    unpriced = any(attempt.usage.total_tokens and attempt.cost_usd is None for attempt in tries)
    # A sum of the known prices only would look like a total and be too low.
    return total.model_copy(update={"cost_usd": None}) if unpriced else total


def _attempt(execution_id: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(attempts.c.execution_id == execution_id, attempts.c.number == number)


def _of_task(task: TaskKey) -> sa.ColumnElement[bool]:
    workspace, application, name = task
    return sa.and_(executions.c.workspace == workspace, executions.c.application == application, executions.c.task == name)


def _within(
    query: sa.Select[Any],
    instant: sa.ColumnElement[Any],
    application: str | None,
    task: str | None,
    since: Microseconds | None,
    until: Microseconds | None,
) -> sa.Select[Any]:
    for column, value in ((executions.c.application, application), (executions.c.task, task)):
        if value is not None:
            query = query.where(column == value)
    if since is not None:
        query = query.where(instant >= since)
    return query if until is None else query.where(instant < until)


def _error_columns(error: tuple[ErrorClass, Stage, str] | None) -> dict[str, str | None]:
    if error is None:
        return {"error_class": None, "error_stage": None, "error_message": None}
    error_class, stage, message = error
    return {"error_class": str(error_class), "error_stage": str(stage), "error_message": recordable_text(message)}


def _has_words(connection: sa.Connection, text: str) -> sa.ColumnElement[bool]:
    if connection.dialect.name == "sqlite":
        words = " ".join('"' + word.replace('"', '""') + '"' for word in text.split())
        found = sa.text("executions.seq IN (SELECT rowid FROM execution_search WHERE execution_search MATCH :words)")
        return found.bindparams(words=words)  # pyright: ignore[reportReturnType]
    matching = sa.text("words @@ plainto_tsquery('simple', :words)").bindparams(words=text)
    return executions.c.seq.in_(sa.select(execution_texts.c.seq).where(matching))
