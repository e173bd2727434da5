"""What one execution of a task leaves for the next."""

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.conditions import within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.storable import storable
from agent_pipelines.store.tables import task_state


class StateValue(BaseModel):
    """A value that an execution left under a key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    key: str
    value: JsonValue
    execution_id: str
    written_at: Microseconds


class TaskState:
    """Writes and reads the state of tasks; a new value never overwrites an old one.

    All methods take part in the caller's transaction.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def read(self, connection: sa.Connection, task: TaskKey, keys: Collection[str] | None = None) -> dict[str, JsonValue]:
        """The newest value of each key, or of those asked for; a key that was never written is left out."""
        if keys is None:
            keys = connection.execute(sa.select(task_state.c.key).where(*_is(task)).distinct()).scalars().all()
        found: dict[str, JsonValue] = {}
        for key in sorted(keys):
            found.update((value.key, value.value) for value in self.history(connection, task, key, limit=1))
        return found

    def commit(self, connection: sa.Connection, task: TaskKey, execution_id: str, values: Mapping[str, JsonValue]) -> None:
        """Add the values that an execution leaves, without secrets; a second time for the same execution adds nothing."""
        workspace, application, name = task
        for key, value in values.items():
            row = {
                "workspace": workspace,
                "application": application,
                "task": name,
                "key": key,
                "value": redactor.value(storable(value)),
                "execution_id": execution_id,
                "written_at": self._clock.now(),
            }
            insert_new(connection, task_state, row)

    def history(
        self, connection: sa.Connection, task: TaskKey, key: str, *, before: int | None = None, limit: int = 50
    ) -> Sequence[StateValue]:
        """Values of a key, newest first, a page at a time: `before` is the `seq` of the last one."""
        query = sa.select(task_state).where(*_is(task), task_state.c.key == key, *within(task_state.c.seq, None, before))
        rows = connection.execute(query.order_by(task_state.c.seq.desc()).limit(limit)).mappings()
        return [StateValue.model_validate(row) for row in rows]


def _is(task: TaskKey) -> tuple[sa.ColumnElement[bool], ...]:
    workspace, application, name = task
    return (task_state.c.workspace == workspace, task_state.c.application == application, task_state.c.task == name)
