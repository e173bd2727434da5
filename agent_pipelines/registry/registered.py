"""The registered tasks: what each is now, and every version that it had."""

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects import postgresql, sqlite

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.tables import registered_task_versions, registered_tasks

TaskState = Literal["enabled", "disabled", "paused", "removed"]


class RegisteredTask(OfTask):
    """A registered task as it is now. `actor` is who changed it last, `reason` why it is paused."""

    seq: int
    version: int
    spec_hash: str
    agent: str
    state: TaskState
    reason: str | None
    actor: str
    created_at: Microseconds
    updated_at: Microseconds


class TaskVersion(BaseModel):
    """One version of a registered task: what it was, since when, and by whom."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    spec_hash: str
    actor: str
    created_at: Microseconds


class RegisteredTasks:
    """Writes and reads the registered tasks. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put(
        self, connection: sa.Connection, specs: Sequence[TaskSpec], hashes: Sequence[str], *, actor: str
    ) -> Sequence[tuple[RegisteredTask, bool]]:
        """Register tasks of one workspace, whose specifications are kept under these hashes already.

        Returns each task as it is now, and whether that is a new version: the specification that it has already is none.
        A task that was removed comes back, with a new version and enabled.
        """
        if not specs:
            return []
        workspace = specs[0].workspace
        now = self._clock.now()
        rows = [
            {
                **_columns(spec.key),
                "version": 1,
                "spec_hash": spec_hash,
                "agent": spec.agent,
                "state": "enabled",
                "actor": actor,
                "created_at": now,
                "updated_at": now,
            }
            for spec, spec_hash in zip(specs, hashes, strict=True)
        ]
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(registered_tasks)
        insert = insert.on_conflict_do_nothing().returning(registered_tasks.c.seq)
        new = set(connection.execute(insert, rows).scalars())
        known = self.by_paths(connection, workspace, [spec.path for spec in specs], lock=True)
        changed: list[str] = [path for path, task in known.items() if task.seq in new]
        for spec, spec_hash in zip(specs, hashes, strict=True):
            task = known[spec.path]
            if task.seq in new or (task.spec_hash == spec_hash and task.state != "removed"):
                continue
            values: dict[str, Any] = {
                "version": task.version + 1,
                "spec_hash": spec_hash,
                "agent": spec.agent,
                "state": "enabled" if task.state == "removed" else task.state,
                "reason": None if task.state == "removed" else task.reason,
                "actor": actor,
                "updated_at": now,
            }
            connection.execute(registered_tasks.update().where(registered_tasks.c.seq == task.seq).values(**values))
            known[spec.path] = task.model_copy(update=values)
            changed.append(spec.path)
        if changed:
            versions = [
                {
                    **_columns(known[path].task_key),
                    "version": known[path].version,
                    "spec_hash": known[path].spec_hash,
                    "actor": actor,
                    "created_at": now,
                }
                for path in changed
            ]
            connection.execute(registered_task_versions.insert(), versions)
        is_new = set(changed)
        return [(known[spec.path], spec.path in is_new) for spec in specs]

    def set_state(
        self, connection: sa.Connection, task: RegisteredTask, state: TaskState, *, actor: str, reason: str | None = None
    ) -> RegisteredTask:
        """Say in which state a task is from now on."""
        values = {"state": state, "reason": reason, "actor": actor, "updated_at": self._clock.now()}
        connection.execute(registered_tasks.update().where(registered_tasks.c.seq == task.seq).values(**values))
        return task.model_copy(update=values)

    def get(self, connection: sa.Connection, task: TaskKey, *, lock: bool = False) -> RegisteredTask | None:
        """A task by its key, removed or not."""
        workspace, application, name = task
        return self.by_paths(connection, workspace, [f"{application}/{name}"], lock=lock).get(f"{application}/{name}")

    def by_paths(
        self, connection: sa.Connection, workspace: str, paths: Sequence[str], *, lock: bool = False
    ) -> dict[str, RegisteredTask]:
        """Those of some tasks that are registered, removed or not, by `application/task`."""
        names = [tuple(path.split("/", 1)) for path in paths]
        t = registered_tasks
        query = sa.select(t).where(t.c.workspace == workspace, sa.tuple_(t.c.application, t.c.task).in_(names))
        query = query.order_by(t.c.application, t.c.task)
        rows = connection.execute(query.with_for_update() if lock else query).mappings()
        return {task.path: task for task in map(RegisteredTask.model_validate, rows)}

    def named(
        self, connection: sa.Connection, name: str, *, workspace: str = "default", limit: int = 10
    ) -> Sequence[RegisteredTask]:
        """The tasks of a name, in whatever application, without those that are removed."""
        t = registered_tasks
        query = sa.select(t).where(t.c.workspace == workspace, t.c.task == name, t.c.state != "removed")
        rows = connection.execute(query.order_by(t.c.application).limit(limit)).mappings()
        return [RegisteredTask.model_validate(row) for row in rows]

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        agent: str | None = None,
        state: TaskState | None = None,
        text: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Sequence[RegisteredTask]:
        """Tasks in the order of their paths, a page at a time: `after` is the path of the last one of the page before.

        `text` is a part of the path. Removed tasks are left out unless the state asks for them.
        """
        t = registered_tasks
        query = sa.select(t).where(t.c.workspace == workspace)
        query = query.where(t.c.state != "removed" if state is None else t.c.state == state)
        query = query.where(*equal({t.c.application: application, t.c.agent: agent}))
        if text is not None:
            query = query.where((t.c.application + "/" + t.c.task).contains(text, autoescape=True))
        if after is not None:
            last_application, _, last_task = after.partition("/")
            query = query.where(
                sa.tuple_(t.c.application, t.c.task) > sa.tuple_(sa.literal(last_application), sa.literal(last_task))
            )
        rows = connection.execute(query.order_by(t.c.application, t.c.task).limit(limit)).mappings()
        return [RegisteredTask.model_validate(row) for row in rows]

    def tasks_of_agent(self, connection: sa.Connection, agent: str, *, workspace: str = "default") -> Sequence[TaskKey]:
        """Which tasks are on an agent, in the order of their paths."""
        t = registered_tasks
        query = sa.select(t.c.application, t.c.task).where(t.c.workspace == workspace, t.c.agent == agent, t.c.state != "removed")
        return [(workspace, row.application, row.task) for row in connection.execute(query.order_by(t.c.application, t.c.task))]

    def versions(
        self, connection: sa.Connection, task: TaskKey, *, before: int | None = None, limit: int = 50
    ) -> Sequence[TaskVersion]:
        """The versions of a task, newest first, a page at a time: `before` is the version that the page before ended with."""
        v = registered_task_versions
        query = sa.select(v).where(
            *(v.c[name] == value for name, value in _columns(task).items()), *within(v.c.version, None, before)
        )
        rows = connection.execute(query.order_by(v.c.version.desc()).limit(limit)).mappings()
        return [TaskVersion.model_validate(row) for row in rows]

    def version(self, connection: sa.Connection, task: TaskKey, version: int) -> TaskVersion | None:
        """One version of a task."""
        found = self.versions(connection, task, before=version + 1, limit=1)
        return found[0] if found and found[0].version == version else None


def _columns(task: TaskKey) -> dict[str, str]:
    workspace, application, name = task
    return {"workspace": workspace, "application": application, "task": name}
