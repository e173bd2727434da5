"""The record of what executions wait for."""

import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import Status
from agent_pipelines.core.plain import record
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import executions, human_tasks, waits

_ABANDONED = 300_000_000  # microseconds behind its deadline after which anybody ends a wait
_NOT_TOLD = frozenset({"draft", "fence", "outcome", "spent", "tries", "model"})

State = Literal["held", "waiting", "arrived", "settled"]


class StoredWait(BaseModel):
    """What an attempt waits for: remote work that has a `handle`, or the answer to a human task.

    `held` by the process that the attempt's stream runs in, `waiting` without any, `arrived` with its `outcome`, and `settled`
    when the attempt has ended. `spent` is what was used before. `continuations` counts the runs that were asked for since then.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    execution_id: str
    attempt: int
    tries: int
    kind: Literal["remote", "human", "lost"]
    state: State
    agent: str
    node: str
    handle: str | None
    human_task_id: str | None
    began_at: Microseconds
    opened_at: Microseconds
    deadline_at: Microseconds
    poll_after_us: int
    next_look_at: Microseconds | None
    looks: int
    failures: int
    last_error: str | None
    fence: int
    called_back_at: Microseconds | None
    spent: Usage
    model: str | None
    draft: JsonValue
    outcome: dict[str, JsonValue] | None
    ended_at: Microseconds | None
    continuations: int
    cancel: Literal["asked", "done", "failed"] | None

    def told(self) -> dict[str, JsonValue]:
        """What is shown of it, without what stands in the execution's journal and what only pollers need."""
        return {name: value for name, value in record(self).items() if name not in _NOT_TOLD}


class Waits:
    """Writes and reads the waits. All methods take part in the caller's transaction.

    What was taken is leased: whoever writes about it must have taken it last, or writes nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def hold(
        self,
        connection: sa.Connection,
        id: str,
        execution_id: str,
        attempt: int,
        *,
        tries: int,
        agent: str,
        node: str,
        handle: str,
        began_at: Microseconds,
        deadline_at: Microseconds,
        poll_after: float,
        token: str | None = None,
    ) -> None:
        """Keep the handle of work that has begun elsewhere, while a process still holds it. `poll_after` is in seconds.

        A second handle of the same attempt takes the place of the first. `token` is what a callback must show; its hash is kept.
        """
        row = self._row(id, execution_id, attempt, tries, agent, node, began_at, deadline_at) | {
            "kind": "remote",
            "state": "held",
            "handle": handle,
            "poll_after_us": round(poll_after * 1_000_000),
            "token_hash": None if token is None else token_hash(token),
        }
        if insert_new(connection, waits, row) is None:
            values = {"handle": handle, "poll_after_us": row["poll_after_us"]}
            connection.execute(waits.update().where(*_unsettled(execution_id)).values(**values))

    def let_go(self, connection: sa.Connection, execution_id: str, *, spent: Usage, model: str | None) -> None:
        """The process lets go of the work: from now on it is looked after from outside."""
        held = waits.update().where(*_unsettled(execution_id), waits.c.state == "held")
        now = self._clock.now()
        first = sa.case((waits.c.called_back_at.is_not(None), now), else_=now + waits.c.poll_after_us)
        connection.execute(held.values(state="waiting", next_look_at=first, spent=spent.model_dump(), model=model))

    def ask(
        self,
        connection: sa.Connection,
        id: str,
        execution_id: str,
        attempt: int,
        *,
        tries: int,
        agent: str,
        node: str,
        human_task_id: str,
        began_at: Microseconds,
        deadline_at: Microseconds,
        draft: JsonValue,
        spent: Usage,
        model: str | None,
    ) -> None:
        """Wait for the answer to a human task."""
        row = self._row(id, execution_id, attempt, tries, agent, node, began_at, deadline_at) | {
            "kind": "human",
            "state": "waiting",
            "human_task_id": human_task_id,
            "poll_after_us": 0,
            "next_look_at": deadline_at,
            "spent": spent.model_dump(),
            "model": model,
            "draft": recordable(draft),
        }
        connection.execute(waits.insert().values(**row))

    def lose(self, connection: sa.Connection, id: str, execution_id: str, *, attempt: int, deadline_at: Microseconds) -> None:
        """An execution whose process was lost waits for nothing but the run that goes on with it."""
        now = self._clock.now()
        row: dict[str, Any] = self._row(id, execution_id, attempt, 1, "", "", now, deadline_at) | {
            "kind": "lost",
            "state": "arrived",
            "poll_after_us": 0,
            "next_look_at": now,
            "outcome": {},
            "ended_at": now,
        }
        connection.execute(waits.insert().values(**row))

    def wait_again(self, connection: sa.Connection, execution_id: str) -> StoredWait | None:
        """After the loss of the process: what it held waits, what had arrived is continued anew; None if there is no wait."""
        wait = self.unsettled(connection, execution_id)
        if wait is None:
            return None
        values: dict[str, Any] = {"next_look_at": self._clock.now()}
        if wait.state == "held":
            values["state"] = "waiting"
        if wait.state != "waiting":
            connection.execute(waits.update().where(waits.c.id == wait.id).values(**values))
        return self.unsettled(connection, execution_id)

    def settle(self, connection: sa.Connection, execution_id: str, *, run_id: str | None = None) -> None:
        """The attempt that waited has ended. With `run_id` only if that run is at work on the execution."""
        now = self._clock.now()
        values = {"state": "settled", "next_look_at": None, "ended_at": sa.func.coalesce(waits.c.ended_at, now)}
        conditions = [*_unsettled(execution_id)]
        if run_id is not None:
            at_work = sa.and_(executions.c.run_id == run_id, executions.c.status == str(Status.RUNNING))
            conditions.append(sa.exists().where(executions.c.id == execution_id, at_work))
        connection.execute(waits.update().where(*conditions).values(**values))

    def cancel(self, connection: sa.Connection, execution_id: str) -> StoredWait | None:
        """Nobody waits any more: remote work is to be cancelled there. Returns the wait as it stood, None if there was none."""
        wait = self.unsettled(connection, execution_id)
        if wait is None:
            return None
        now = self._clock.now()
        goes_on = wait.kind == "remote" and wait.state != "arrived"
        values = {"cancel": "asked", "next_look_at": now} if goes_on else {"next_look_at": None}
        ended_at = wait.ended_at or now
        connection.execute(waits.update().where(waits.c.id == wait.id).values(state="settled", ended_at=ended_at, **values))
        return wait

    def call_back(self, connection: sa.Connection, id: str, token: str) -> bool:
        """Have a wait looked at now, because the other side says that it is worth while; False if the token is wrong.

        Whether the work has ended is for the next look to tell.
        """
        row = connection.execute(sa.select(waits.c.token_hash).where(waits.c.id == id)).first()
        known = None if row is None else row.token_hash
        if not hmac.compare_digest(token_hash(token), known or "") or known is None:
            return False
        now = self._clock.now()
        mine = waits.update().where(waits.c.id == id)
        connection.execute(mine.where(waits.c.state == "held").values(called_back_at=now))
        connection.execute(mine.where(waits.c.state == "waiting").values(called_back_at=now, next_look_at=now))
        return True

    def take(
        self,
        connection: sa.Connection,
        *,
        agents: Collection[str],
        lease: float,
        limit: int = 1_000,
    ) -> Sequence[StoredWait]:
        """Take what is to be looked at now, the longest due first, for `lease` seconds; nobody else is given it until then.

        Remote work only of these agents, and what nobody has looked after until minutes behind its deadline. A wait for people is
        due when they have answered, and at its deadline.
        """
        now = self._clock.now()
        is_free = sa.or_(waits.c.lease_until.is_(None), waits.c.lease_until <= now)
        ours = sa.or_(
            waits.c.kind == "human",
            waits.c.agent.in_(agents),
            (waits.c.state == "arrived") & waits.c.cancel.is_distinct_from("asked"),
            (waits.c.state == "waiting") & (waits.c.deadline_at <= now - _ABANDONED),
        )
        due = sa.select(waits.c.id).where(waits.c.next_look_at <= now, is_free, ours).order_by(waits.c.next_look_at).limit(limit)
        ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
        if len(ids) < limit:
            answered = (
                sa.select(waits.c.id)
                .join(human_tasks, human_tasks.c.id == waits.c.human_task_id)
                .where(waits.c.state == "waiting", human_tasks.c.answered_at.is_not(None), is_free)
                .limit(limit - len(ids))
            )
            ids += connection.execute(answered.with_for_update(of=waits, skip_locked=True)).scalars()
        ids = list(dict.fromkeys(ids))
        if not ids:
            return []
        leased = {"fence": waits.c.fence + 1, "lease_until": now + round(lease * 1_000_000)}
        taken = waits.update().where(waits.c.id.in_(ids)).values(leased).returning(*waits.c)
        found = {row["id"]: StoredWait.model_validate(row) for row in connection.execute(taken).mappings()}
        return [found[id] for id in ids]

    def look_again(
        self, connection: sa.Connection, wait: StoredWait, at: Microseconds | None, *, error: str | None = None
    ) -> bool:
        """Nothing has arrived yet; `error` says why that could not be told. False if somebody else has taken it since."""
        values: dict[str, Any] = {"looks": waits.c.looks + 1, "failures": 0, "last_error": None}
        if error is not None:
            values |= {"failures": waits.c.failures + 1, "last_error": recordable_text(error)}
        return self._write(connection, wait, next_look_at=at, **values)

    def put_back(self, connection: sa.Connection, wait: StoredWait, at: Microseconds | None) -> bool:
        """Give a wait back without having looked."""
        return self._write(connection, wait, next_look_at=at)

    def arrive(
        self,
        connection: sa.Connection,
        wait: StoredWait,
        outcome: Mapping[str, JsonValue],
        *,
        cancel: Literal["done", "failed"] | None = None,
    ) -> bool:
        """Keep how it ended; the execution is to be continued. False if somebody else has taken it since."""
        now = self._clock.now()
        kept = recordable(dict(outcome))
        return self._write(
            connection,
            wait,
            state="arrived",
            outcome=kept,
            ended_at=now,
            next_look_at=now,
            cancel=cancel,
        )

    def continued(self, connection: sa.Connection, wait: StoredWait, *, number: int, next_look_at: Microseconds) -> bool:
        """A run was asked for that goes on; whether it came is looked at later."""
        return self._write(connection, wait, continuations=number, next_look_at=next_look_at)

    def cancelled(self, connection: sa.Connection, wait: StoredWait, cancel: Literal["done", "failed"]) -> bool:
        """Whether the other side took the cancel call."""
        return self._write(connection, wait, cancel=cancel, next_look_at=None)

    def unsettled(self, connection: sa.Connection, execution_id: str) -> StoredWait | None:
        """What an execution waits for, None if nothing."""
        row = connection.execute(sa.select(waits).where(*_unsettled(execution_id))).mappings().first()
        return None if row is None else StoredWait.model_validate(row)

    def get(self, connection: sa.Connection, id: str) -> StoredWait | None:
        """A wait by its id."""
        row = connection.execute(sa.select(waits).where(waits.c.id == id)).mappings().first()
        return None if row is None else StoredWait.model_validate(row)

    def of(self, connection: sa.Connection, execution_id: str) -> Sequence[StoredWait]:
        """The waits of an execution by their attempts."""
        query = sa.select(waits).where(waits.c.execution_id == execution_id).order_by(waits.c.attempt, waits.c.opened_at)
        return [StoredWait.model_validate(row) for row in connection.execute(query).mappings()]

    def _write(self, connection: sa.Connection, wait: StoredWait, **values: Any) -> bool:
        mine = waits.update().where(waits.c.id == wait.id, waits.c.fence == wait.fence, waits.c.state == wait.state)
        return connection.execute(mine.values(lease_until=None, **values)).rowcount == 1

    def _row(
        self,
        id: str,
        execution_id: str,
        attempt: int,
        tries: int,
        agent: str,
        node: str,
        began_at: Microseconds,
        deadline_at: Microseconds,
    ) -> dict[str, Any]:
        return {
            "id": id,
            "execution_id": execution_id,
            "attempt": attempt,
            "tries": tries,
            "agent": agent,
            "node": node,
            "began_at": began_at,
            "opened_at": self._clock.now(),
            "deadline_at": deadline_at,
            "looks": 0,
            "failures": 0,
            "fence": 0,
            "continuations": 0,
            "spent": Usage().model_dump(),
        }


def token_hash(token: str) -> str:
    """What is kept of a token: SHA-256 in hexadecimal. It has 256 random bits, so that it needs no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def _unsettled(execution_id: str) -> Sequence[sa.ColumnElement[bool]]:
    return (waits.c.execution_id == execution_id, waits.c.state != "settled")
