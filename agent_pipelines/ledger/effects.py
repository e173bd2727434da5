"""The ledger of side effects: an intent before, a receipt after."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.effect import EFFECT_TRANSITIONS, EffectStatus
from agent_pipelines.core.errors import IllegalTransition
from agent_pipelines.core.execution import Status
from agent_pipelines.core.ids import ids_beginning, new_id
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey
from agent_pipelines.ledger.recordable import recordable, recordable_text
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import effects, executions


class Effect(OfTask):
    """One side effect as it stands in the record. Instants are UTC microseconds.

    `tries` is the fence: who began an earlier try has no more to say of it. `settled_by` names how it was found out that it is
    done: `answer`, `probe`, or who said so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    key: str
    name: str
    execution_id: str | None
    run_id: str
    tries: int
    status: EffectStatus
    request: JsonValue
    receipt: JsonValue
    error: str | None
    intended_at: Microseconds
    ended_at: Microseconds | None
    settled_by: str | None


class Effects:
    """Writes and reads the effects. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def intend(
        self,
        connection: sa.Connection,
        task: TaskKey,
        key: str,
        *,
        name: str,
        run_id: str,
        execution_id: str | None = None,
        request: JsonValue = None,
    ) -> tuple[Effect, bool]:
        """Note that an effect is about to happen; whether it is this call's to make happen, which only one of several gets.

        It is if the effect is new or has certainly not happened. Raises IllegalTransition if another run has the execution now.
        """
        self._refuse_stranger(connection, execution_id, run_id)
        workspace, application, name_of_task = task
        row: dict[str, Any] = {
            "id": new_id(),
            "workspace": workspace,
            "application": application,
            "task": name_of_task,
            "key": key,
            "name": name,
            "execution_id": execution_id,
            "run_id": run_id,
            "tries": 1,
            "status": str(EffectStatus.INTENDED),
            "request": recordable(request),
            "intended_at": self._clock.now(),
        }
        seq = insert_new(connection, effects, row)
        if seq is not None:
            return Effect.model_validate(
                {"receipt": None, "error": None, "ended_at": None, "settled_by": None, **row, "seq": seq}
            ), True
        found = self.of_key(connection, workspace, key, lock=True)
        if found is None:
            raise IllegalTransition(f"effect {key} has vanished from the record")
        if found.status is EffectStatus.FAILED:
            return self.again(connection, found, run_id=run_id, execution_id=execution_id), True
        return found, False

    def is_at_work(self, connection: sa.Connection, effect: Effect) -> bool | None:
        """Whether the execution that began the effect still runs where it began it; None if it belongs to no execution."""
        if effect.execution_id is None:
            return None
        query = sa.select(executions.c.run_id, executions.c.status).where(executions.c.id == effect.execution_id)
        row = connection.execute(query).first()
        return row is not None and (row.run_id, row.status) == (effect.run_id, str(Status.RUNNING))

    def again(self, connection: sa.Connection, effect: Effect, *, run_id: str, execution_id: str | None = None) -> Effect:
        """Begin a further try of one that has not happened, or that may safely be repeated."""
        return self._change(
            connection,
            effect,
            status=str(EffectStatus.INTENDED),
            tries=effect.tries + 1,
            run_id=run_id,
            execution_id=execution_id or effect.execution_id,
            error=None,
            intended_at=self._clock.now(),
            ended_at=None,
        )

    def done(self, connection: sa.Connection, effect: Effect, receipt: JsonValue, *, by: str) -> Effect:
        """Keep the receipt. Raises IllegalTransition if a later try was begun, or somebody decided otherwise."""
        return self._end(connection, effect, EffectStatus.DONE, receipt=recordable(receipt), settled_by=by)

    def failed(self, connection: sa.Connection, effect: Effect, error: str) -> Effect:
        """Note that it has certainly not happened."""
        return self._end(connection, effect, EffectStatus.FAILED, error=error)

    def unknown(self, connection: sa.Connection, effect: Effect, error: str) -> Effect:
        """Note that it may have happened."""
        return self._end(connection, effect, EffectStatus.UNKNOWN, error=error)

    def abandoned(self, connection: sa.Connection, effect: Effect, *, by: str) -> Effect:
        """Note that somebody decided that it is not to happen."""
        return self._end(connection, effect, EffectStatus.ABANDONED, settled_by=by)

    def of_key(self, connection: sa.Connection, workspace: str, key: str, *, lock: bool = False) -> Effect | None:
        """The effect of a key."""
        query = sa.select(effects).where(effects.c.workspace == workspace, effects.c.key == key)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else Effect.model_validate(row)

    def get(self, connection: sa.Connection, effect_id: str, *, lock: bool = False) -> Effect | None:
        """An effect by its id."""
        query = sa.select(effects).where(effects.c.id == effect_id)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else Effect.model_validate(row)

    def find(self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5) -> Sequence[Effect]:
        """Effects whose id begins so, with or without its dashes, oldest first."""
        ids = ids_beginning(prefix)
        if ids is None:
            return []
        query = sa.select(effects).where(effects.c.workspace == workspace, effects.c.id.between(*ids))
        return [Effect.model_validate(row) for row in connection.execute(query.order_by(effects.c.id).limit(limit)).mappings()]

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        status: EffectStatus | None = None,
        execution_id: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Effect]:
        """Effects, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        wanted = equal({effects.c.status: None if status is None else str(status), effects.c.execution_id: execution_id})
        query = sa.select(effects).where(effects.c.workspace == workspace, *wanted, *within(effects.c.seq, None, before))
        rows = connection.execute(query.order_by(effects.c.seq.desc()).limit(limit)).mappings()
        return [Effect.model_validate(row) for row in rows]

    def is_open(self, connection: sa.Connection, execution_id: str) -> bool:
        """Whether an effect of an execution was begun of which nobody knows whether it has happened."""
        unknown = effects.c.status.in_([str(EffectStatus.INTENDED), str(EffectStatus.UNKNOWN)])
        query = sa.select(effects.c.id).where(effects.c.execution_id == execution_id, unknown).limit(1)
        return connection.execute(query).first() is not None

    def forget(self, connection: sa.Connection, *, ended_before: Microseconds, limit: int) -> int:
        """Remove effects that are done or abandoned since long; returns how many. Their keys may then act again."""
        over = effects.c.status.in_([str(EffectStatus.DONE), str(EffectStatus.ABANDONED)])
        # Those of an execution go when it has gone: it may wait for long, and is not to act again then.
        is_kept = sa.exists().where(executions.c.id == effects.c.execution_id)
        old = (
            sa.select(effects.c.seq).where(over, ~is_kept, effects.c.ended_at < ended_before).order_by(effects.c.seq).limit(limit)
        )
        return connection.execute(sa.delete(effects).where(effects.c.seq.in_(old.scalar_subquery()))).rowcount

    def _refuse_stranger(self, connection: sa.Connection, execution_id: str | None, run_id: str) -> None:
        if execution_id is None:
            return
        # Locked: nobody takes the execution over between this look and the intent.
        query = sa.select(executions.c.run_id, executions.c.status).where(executions.c.id == execution_id)
        row = connection.execute(query.with_for_update(read=True)).first()
        if row is None or (row.run_id, row.status) != (run_id, str(Status.RUNNING)):
            raise IllegalTransition(
                f"execution {execution_id} is no longer run {run_id}'s; its effects are another one's to begin"
            )

    def _end(self, connection: sa.Connection, effect: Effect, status: EffectStatus, **values: Any) -> Effect:
        error = values.pop("error", None)
        values["error"] = None if error is None else recordable_text(error)
        return self._change(connection, effect, status=str(status), ended_at=self._clock.now(), **values)

    def _change(self, connection: sa.Connection, effect: Effect, **values: Any) -> Effect:
        change = effects.update().where(
            effects.c.id == effect.id, effects.c.tries == effect.tries, effects.c.status.in_(_open(values["status"]))
        )
        row = connection.execute(change.values(**values).returning(*effects.c)).mappings().first()
        if row is None:
            raise IllegalTransition(f"effect {effect.key} cannot become {values['status']}: it was tried again or settled since")
        return Effect.model_validate(row)


def _open(status: str) -> list[str]:
    """The states that can become another one."""
    return [str(old) for old, new in EFFECT_TRANSITIONS.items() if status in new]
