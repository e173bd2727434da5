"""The record of the tries of executions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.ledger.items import BegunAttempt, BegunItem, EndedAttempt
from agent_pipelines.ledger.recordable import error_columns
from agent_pipelines.ledger.stored import StoredAttempt
from agent_pipelines.store.bulk import insert_missing, update_rows
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.tables import attempts, executions
from agent_pipelines.store.window import Window

# Statements of every execution, made once: to put one together takes SQLAlchemy longer than to run it.
OF = sa.bindparam("of", type_=sa.Text)
"""The id of the execution that a statement is about."""

_TOKENS = sa.func.coalesce(attempts.c.input_tokens, 0) + sa.func.coalesce(attempts.c.output_tokens, 0)
_UNPRICED = attempts.c.cost_usd.is_(None) & (_TOKENS > 0)
SPENT = (
    sa.select(
        OF.label("execution_id"),
        *(sa.func.sum(attempts.c[name]).label(name) for name in Usage.model_fields),
        sa.func.count(sa.case((_UNPRICED, 1))).label("unpriced"),
    )
    .where(attempts.c.execution_id == OF)
    .subquery("spent")
)
"""What the tries of an execution have used together, and how many of them have no price."""

_THERE = ("execution_id", "number", "run_id", "node", "status", "started_at", "finished_at", "error_class")

_USAGE = tuple(Usage.model_fields)
_START = attempts.insert()
_FINISH = attempts.update().where(
    attempts.c.execution_id == OF, attempts.c.number == sa.bindparam("of_number"), sa.text("status = 'running'")
)


class AttemptThere(BaseModel):
    """A try, told of with the task that it is for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: str
    application: str
    task: str
    execution_id: str
    number: int
    run_id: str
    node: str
    status: str
    started_at: Microseconds
    finished_at: Microseconds | None
    error_class: str | None


class Attempts:
    """Writes and reads attempts. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start(
        self,
        connection: sa.Connection,
        execution_id: str,
        number: int,
        *,
        run_id: str,
        agent: str,
        node: str,
        begins_at: Microseconds = 0,
    ) -> None:
        """Record that a try begins, now or at `begins_at`."""
        row = {
            "execution_id": execution_id,
            "number": number,
            "run_id": run_id,
            "agent": agent,
            "node": node,
            "status": "running",
            "started_at": max(self._clock.now(), begins_at),
        }
        connection.execute(_START, row)

    def finish(
        self,
        connection: sa.Connection,
        execution_id: str,
        number: int,
        status: Literal["succeeded", "failed", "cancelled"],
        *,
        usage: Usage,
        model: str | None = None,
        handle: str | None = None,
        error: tuple[ErrorClass, Stage, str] | None = None,
        error_status: int | None = None,
        retry_decision: str | None = None,
        retry_delay: float | None = None,
        runtime_tries: int | None = None,
    ) -> None:
        """Record how a try ended, unless it has ended before; `retry_delay` is in seconds.

        `runtime_tries` is how often the runtime itself has tried meanwhile.
        """
        values: dict[str, Any] = {
            "status": status,
            "finished_at": self._clock.now(),
            "model": model,
            "handle": handle,
            "retry_decision": retry_decision,
            "retry_delay_us": None if retry_delay is None else round(retry_delay * 1_000_000),
            "error_status": error_status,
            "runtime_tries": runtime_tries,
            **usage.model_dump(),
            **error_columns(error),
        }
        connection.execute(_FINISH, {"of": execution_id, "of_number": number, **values})

    def lose(self, connection: sa.Connection, execution_id: str) -> int:
        """Record that nobody knows how the tries that run have ended; returns how many they are."""
        running = sa.and_(attempts.c.execution_id == execution_id, attempts.c.status == "running")
        lost = attempts.update().where(running).values(status="lost", finished_at=self._clock.now())
        return connection.execute(lost).rowcount

    def start_many(self, connection: sa.Connection, begun: Sequence[BegunItem] | Sequence[BegunAttempt], *, run_id: str) -> None:
        """Record that tries of several executions begin."""
        rows = [
            {
                "execution_id": each.id,
                "number": each.attempt,
                "run_id": run_id,
                "agent": each.agent,
                "node": each.node,
                "status": "running",
                "started_at": each.at,
            }
            for each in begun
            if each.is_asked
        ]
        insert_missing(connection, attempts, rows)

    def finish_many(self, connection: sa.Connection, ended: Sequence[EndedAttempt]) -> None:
        """Record how tries of several executions ended; those that have ended before keep their end."""
        rows = [
            {
                "execution_id": each.id,
                "number": each.attempt,
                "status": each.status,
                "finished_at": each.at,
                "model": each.model,
                "handle": each.handle,
                "retry_decision": each.retry_decision,
                "retry_delay_us": None if each.retry_delay is None else round(each.retry_delay * 1_000_000),
                "error_status": each.error_status,
                "runtime_tries": each.runtime_tries,
                **{name: getattr(each.usage, name) for name in _USAGE},
                **error_columns(each.error),
            }
            for each in ended
        ]
        update_rows(connection, attempts, rows, keys=("execution_id", "number"), where="attempts.status = 'running'")

    def lose_many(self, connection: sa.Connection, execution_ids: Sequence[str]) -> None:
        """Record that nobody knows how the tries that run of several executions have ended."""
        running = sa.and_(attempts.c.execution_id.in_(execution_ids), attempts.c.status == "running")
        connection.execute(attempts.update().where(running).values(status="lost", finished_at=self._clock.now()))

    def spent(self, connection: sa.Connection, execution_ids: Sequence[str]) -> Mapping[str, tuple[Usage, bool, int]]:
        """What the tries of executions have used together, whether a price is missing in that, and how many were lost.

        One that runs counts as lost: who asks is about to take it over.
        """
        sums = [sa.func.sum(attempts.c[name]) for name in _USAGE]
        unpriced = sa.func.count(sa.case((_UNPRICED, 1)))
        lost = sa.func.count(sa.case((attempts.c.status.in_(["lost", "running"]), 1)))
        query = sa.select(attempts.c.execution_id, unpriced, lost, *sums).where(attempts.c.execution_id.in_(execution_ids))
        return {
            execution_id: (
                Usage(**{name: _whole(value) for name, value in zip(_USAGE, values, strict=True)}),
                unpriced_ones > 0,
                lost_ones,
            )
            for execution_id, unpriced_ones, lost_ones, *values in connection.execute(query.group_by(attempts.c.execution_id))
        }

    def of(self, connection: sa.Connection, execution_id: str) -> Sequence[StoredAttempt]:
        """The tries of an execution in order."""
        query = sa.select(attempts).where(attempts.c.execution_id == execution_id).order_by(attempts.c.number)
        return [StoredAttempt.model_validate(row) for row in connection.execute(query).mappings()]

    def on(
        self, connection: sa.Connection, agent: str, *, node: str | None = None, is_running: bool, limit: int = 50
    ) -> Sequence[AttemptThere]:
        """The tries that run on an agent or one node of it, or those that ran there, newest first."""
        columns = (*(executions.c[name] for name in ("workspace", "application", "task")), *(attempts.c[name] for name in _THERE))
        query = (
            sa.select(*columns).join_from(attempts, executions).where(attempts.c.agent == agent, *equal({attempts.c.node: node}))
        )
        query = query.where(sa.text("attempts.status = 'running'" if is_running else "attempts.status <> 'running'"))
        rows = connection.execute(query.order_by(attempts.c.started_at.desc()).limit(limit)).mappings()
        return [AttemptThere.model_validate(row) for row in rows]

    def rows(self, connection: sa.Connection, columns: Sequence[str], window: Window) -> Sequence[Sequence[Any]]:
        """Chosen columns of the attempts begun in a stretch of time, `application` and `task` among them, oldest first."""
        of_task = {name: executions.c[name] for name in ("application", "task")}
        query = sa.select(*(of_task[name] if name in of_task else attempts.c[name] for name in columns))
        query = query.join_from(attempts, executions).where(*window.of(executions, attempts.c.started_at))
        return connection.execute(query.order_by(executions.c.seq, attempts.c.number)).all()


def _whole(value: Any) -> Any:
    """A sum as it is meant: PostgreSQL makes decimals of sums of whole numbers."""
    return value if value is None or isinstance(value, int | float) else int(value)
