"""The specifications that tasks ran with, by the hash of their content."""

from collections.abc import Collection, Mapping, Sequence
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import registered_tasks, task_specs

# Specifications that a database is known to hold, so that not every execution has to offer its own: those that an earlier
# transaction has left there. What a transaction has made itself may still be undone.
_known: WeakKeyDictionary[sa.Engine, set[str]] = WeakKeyDictionary()
_made: WeakKeyDictionary[sa.Connection, set[str]] = WeakKeyDictionary()


class TaskSpecs:
    """Writes and reads specifications. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put(self, connection: sa.Connection, spec: TaskSpec) -> str:
        """Keep a specification and return its hash; the same content is kept once."""
        spec_hash = spec.spec_hash
        known = _known.setdefault(connection.engine, set())
        if spec_hash in known:
            return spec_hash
        row = {
            "spec_hash": spec_hash,
            "workspace": spec.workspace,
            "application": spec.application,
            "task": spec.name,
            "spec": spec.canonical(),
            "created_at": self._clock.now(),
        }
        made_here = _made.setdefault(connection, set())
        if insert_new(connection, task_specs, row) is not None:
            made_here.add(spec_hash)
        elif spec_hash not in made_here:
            known.add(spec_hash)
        return spec_hash

    def get(self, connection: sa.Connection, spec_hash: str) -> TaskSpec | None:
        """The specification of a hash."""
        found = connection.execute(sa.select(task_specs.c.spec).where(task_specs.c.spec_hash == spec_hash)).scalar()
        return None if found is None else TaskSpec.model_validate(found)

    def by_hashes(self, connection: sa.Connection, hashes: Collection[str]) -> Mapping[str, TaskSpec]:
        """Specifications by their hashes; those that are not kept are left out."""
        query = sa.select(task_specs.c.spec_hash, task_specs.c.spec).where(task_specs.c.spec_hash.in_(hashes))
        found = {spec_hash: TaskSpec.model_validate(spec) for spec_hash, spec in connection.execute(query).tuples()}
        # An execution of one that was read need not write it again.
        _known.setdefault(connection.engine, set()).update(found.keys() - _made.get(connection, set()))
        return found

    def history(self, connection: sa.Connection, task: TaskKey) -> Sequence[tuple[str, int]]:
        """Hashes of a task's specifications and when each was first used, newest first."""
        workspace, application, name = task
        query = sa.select(task_specs.c.spec_hash, task_specs.c.created_at).where(
            task_specs.c.workspace == workspace, task_specs.c.application == application, task_specs.c.task == name
        )
        return [(row.spec_hash, row.created_at) for row in connection.execute(query.order_by(task_specs.c.created_at.desc()))]

    def tasks(
        self, connection: sa.Connection, *, workspace: str = "default", unregistered_only: bool = False
    ) -> Sequence[TaskKey]:
        """The tasks that have ever run or were registered, by name; or those of them that are not registered now."""
        names = (task_specs.c.application, task_specs.c.task)
        query = sa.select(*names).where(task_specs.c.workspace == workspace).distinct().order_by(*names)
        if unregistered_only:
            r = registered_tasks
            same = (r.c.workspace == workspace, r.c.application == names[0], r.c.task == names[1])
            query = query.where(~sa.exists().where(*same, r.c.state != "removed"))
        return [(workspace, row.application, row.task) for row in connection.execute(query)]
