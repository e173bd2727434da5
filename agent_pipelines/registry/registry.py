"""The verbs of registered tasks: each one transaction, with its version, its triggers and who did it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from agent_pipelines.core.circle import circle
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import AgentPipelinesError, DefinitionError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.refusals import field_of
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.core.trigger import Trigger, trigger_name
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.triggers import Triggers, Wanted
from agent_pipelines.governance.audit import Audit
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.registry.registered import RegisteredTask, RegisteredTasks, TaskState
from agent_pipelines.registry.rules import Rules
from agent_pipelines.store.database import Connection, Database

LANE = "burst"
"""The lane of every registered task."""

_AT_ONCE = 500  # tasks that are registered in one transaction


class NotRegistered(AgentPipelinesError):
    """There is no registered task of that name."""


class NotInState(AgentPipelinesError):
    """The task is in a state in which this cannot be done."""


@dataclass(frozen=True)
class Registration:
    """What became of a specification: the task as it is now, and whether this is a new version."""

    task: RegisteredTask
    is_new: bool


class Registry:
    """Registers tasks and switches them. Each verb opens its own transaction, and is in force when it returns."""

    def __init__(
        self,
        database: Database,
        specs: TaskSpecs,
        registered: RegisteredTasks,
        triggers: Triggers,
        ticks: Ticks,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._database = database
        self._specs = specs
        self._registered = registered
        self._triggers = triggers
        self._ticks = ticks
        self._audit = audit
        self._clock = clock

    def register(self, spec: TaskSpec, declared: Declared, *, actor: str, place: str | None = None) -> Registration:
        """Register a task, or a new version of one. Raises DefinitionError, one for all that is wrong."""
        (registration,) = self.register_many([spec], declared, actor=actor, places=None if place is None else [place])
        return registration

    def register_many(
        self, specs: Sequence[TaskSpec], declared: Declared, *, actor: str, places: Sequence[str] | None = None
    ) -> Sequence[Registration]:
        """Register tasks, some hundred in a transaction; they may refer to one another.

        `places` say where each was written, for errors. Raises DefinitionError for all that is wrong with any of them, and
        registers none then.
        """
        refuse(self._problems(specs, declared, places or [None] * len(specs)))
        by_workspace: dict[str, list[TaskSpec]] = {}
        # In the order of their keys: of two who register the same tasks at once, one then waits for the other, never both.
        for spec in sorted(specs, key=lambda spec: spec.key):
            by_workspace.setdefault(spec.workspace, []).append(spec.model_copy(update={"lane": LANE}))
        done: dict[TaskKey, Registration] = {}
        for group in by_workspace.values():
            for start in range(0, len(group), _AT_ONCE):
                with self._database.transaction() as connection:
                    for registration in self._put(connection, group[start : start + _AT_ONCE], actor):
                        done[registration.task.task_key] = registration
        return [done[spec.key] for spec in specs]

    def enable(self, task: TaskKey, *, actor: str) -> RegisteredTask:
        """Switch a task on: what is due from now on runs. Raises NotRegistered."""
        return self._switch(task, "enabled", "task.enable", actor=actor)

    def disable(self, task: TaskKey, *, actor: str) -> RegisteredTask:
        """Switch a task off: nothing of it is due any more; it still runs on demand. Raises NotRegistered."""
        return self._switch(task, "disabled", "task.disable", actor=actor)

    def pause(self, task: TaskKey, reason: str, *, actor: str) -> RegisteredTask:
        """Hold a task for a reason, until it is resumed; it still runs on demand. Raises NotRegistered."""
        return self._switch(task, "paused", "task.pause", actor=actor, reason=reason)

    def resume(self, task: TaskKey, *, actor: str) -> RegisteredTask:
        """End a pause. What was due meanwhile is not caught up. Raises NotRegistered, NotInState if it is not paused."""
        return self._switch(task, "enabled", "task.resume", actor=actor, only_from="paused")

    def remove(self, task: TaskKey, *, actor: str) -> RegisteredTask:
        """Take a task out; its versions and its record stay. Raises NotRegistered."""
        with self._database.transaction() as connection:
            known = self._known(connection, task)
            for trigger in self._triggers.list(connection, task=task):
                self._triggers.remove(connection, task, trigger.trigger, actor=actor)
            removed = self._registered.set_state(connection, known, "removed", actor=actor)
            self._note(connection, actor, "task.remove", known.task_key, {"version": known.version})
        return removed

    def run_now(
        self,
        task: TaskKey,
        *,
        actor: str,
        variables: Mapping[str, JsonValue] | None = None,
        logical_at: Microseconds | None = None,
    ) -> Tick:
        """Ask for one execution of a task in its present version, whether it is switched on or not.

        A burst takes the tick as soon as one has a free place. Raises NotRegistered, and DefinitionError for a variable
        that holds a secret.
        """
        for name, value in (variables or {}).items():
            if redactor.value({name: value}) != {name: value}:
                fix = "Ticks are kept and shown; a declared agent names the environment variable that holds it"
                raise DefinitionError("holds a secret", field=f"variables.{name}", fix=fix)
        now, occurrence = self._clock.now(), new_id()
        with self._database.transaction() as connection:
            known = self._known(connection, task)
            spec = self._spec(connection, known)
            tick, _ = self._ticks.claim(
                connection,
                task,
                str(Origin.ON_DEMAND),
                occurrence,
                origin=Origin.ON_DEMAND,
                due_at=now,
                logical_at=logical_at,
                actor=actor,
                inputs={"variables": dict(variables or {})},
                lane=LANE,
                priority=spec.precedence,
                spec_hash=known.spec_hash,
            )
            self._note(connection, actor, "task.run", task, {"tick_id": tick.id, "version": known.version})
        return tick

    def spec_of(self, task: RegisteredTask) -> TaskSpec:
        """The specification of a task's present version."""
        with self._database.reading() as connection:
            return self._spec(connection, task)

    def _put(self, connection: Connection, specs: Sequence[TaskSpec], actor: str) -> Sequence[Registration]:
        hashes = [self._specs.put(connection, spec) for spec in specs]
        put = self._registered.put(connection, specs, hashes, actor=actor)
        changed = [(spec, task) for spec, (task, is_new) in zip(specs, put, strict=True) if is_new]
        for spec, task in changed:
            if task.version > 1:
                kept = {trigger_name(trigger) for trigger in spec.triggers}
                for stored in self._triggers.list(connection, task=spec.key):
                    if stored.trigger not in kept:
                        self._triggers.remove(connection, spec.key, stored.trigger, actor=actor)
        wanted = [trigger for spec, task in changed for trigger in _triggers_of(spec, task)]
        self._triggers.put_many(connection, wanted, actor=actor)
        told = {task.path: {"version": task.version, "spec_hash": task.spec_hash} for _, task in changed}
        self._audit.record_each(connection, told, actor=actor, action="task.register", workspace=specs[0].workspace)
        return [Registration(task, is_new) for task, is_new in put]

    def _switch(
        self,
        task: TaskKey,
        state: TaskState,
        action: str,
        *,
        actor: str,
        reason: str | None = None,
        only_from: TaskState | None = None,
    ) -> RegisteredTask:
        with self._database.transaction() as connection:
            known = self._known(connection, task)
            if only_from is not None and known.state != only_from:
                raise NotInState(f"task {known.path} is {known.state}, not {only_from}")
            if (known.state, known.reason) == (state, reason):
                return known
            switched = self._registered.set_state(connection, known, state, actor=actor, reason=reason)
            wanted = _triggers_of(self._spec(connection, known), switched)
            self._triggers.put_many(connection, wanted, actor=actor)
            details: dict[str, JsonValue] = {} if reason is None else {"reason": reason}
            self._note(connection, actor, action, task, details)
        return switched

    def _known(self, connection: Connection, task: TaskKey) -> RegisteredTask:
        known = self._registered.get(connection, task, lock=True)
        if known is None or known.state == "removed":
            raise NotRegistered(f"no task {task[1]}/{task[2]} is registered")
        return known

    def _spec(self, connection: Connection, task: RegisteredTask) -> TaskSpec:
        spec = self._specs.get(connection, task.spec_hash)
        assert spec is not None  # a foreign key holds it
        return spec

    def _note(self, connection: Connection, actor: str, action: str, task: TaskKey, details: Mapping[str, JsonValue]) -> None:
        workspace, application, name = task
        self._audit.record(
            connection, actor=actor, action=action, object=f"{application}/{name}", details=details, workspace=workspace
        )

    def _problems(self, specs: Sequence[TaskSpec], declared: Declared, places: Sequence[str | None]) -> Sequence[DefinitionError]:
        found: list[DefinitionError] = []
        new: dict[TaskKey, tuple[TaskSpec, str | None]] = {}
        for spec, place in zip(specs, places, strict=True):
            if spec.key in new:
                fix = "Give each a name of its own"
                found.append(DefinitionError(f"task {spec.path} is here twice", field="name", file=place, fix=fix))
            new[spec.key] = (spec, place)
        with self._database.reading() as connection:
            others = self._upstream_of(connection, [spec for spec, _ in new.values()])
            rules = Rules(declared, {*new, *others}, self._clock.now())
            over = [key for key, (spec, _) in new.items() if any(map(rules.is_over, spec.triggers))]
            before = self._before(connection, over)
        for spec, place in new.values():
            found += rules.problems(spec, before.get(spec.key), place=place)
        return [*found, *_circles(new, others)]

    def _before(self, connection: Connection, keys: Sequence[TaskKey]) -> Mapping[TaskKey, TaskSpec]:
        """What those of some tasks are now that are registered."""
        return {key: self._spec(connection, task) for key, task in self._present(connection, keys).items()}

    def _upstream_of(self, connection: Connection, specs: Sequence[TaskSpec]) -> Mapping[TaskKey, TaskSpec]:
        """The registered tasks that come before some others, and before those."""
        found: dict[TaskKey, TaskSpec] = {}
        asked: set[TaskKey] = set()
        waiting: Sequence[TaskSpec] = specs
        while keys := {_key(spec, path) for spec in waiting for _, path in spec.upstream()} - asked:
            asked |= keys
            waiting = list(self._before(connection, sorted(keys)).values())
            found |= {spec.key: spec for spec in waiting}
        return found

    def _present(self, connection: Connection, keys: Sequence[TaskKey]) -> Mapping[TaskKey, RegisteredTask]:
        found: dict[TaskKey, RegisteredTask] = {}
        for workspace in {key[0] for key in keys}:
            paths = [f"{key[1]}/{key[2]}" for key in keys if key[0] == workspace]
            for start in range(0, len(paths), _AT_ONCE):
                for task in self._registered.by_paths(connection, workspace, paths[start : start + _AT_ONCE]).values():
                    if task.state != "removed":
                        found[task.task_key] = task
        return found


def _triggers_of(spec: TaskSpec, task: RegisteredTask) -> Sequence[Wanted]:
    return [
        Wanted(
            spec.key,
            trigger,
            source="registered",
            state=_state_of(trigger, task.state),
            lane=LANE,
            priority=spec.precedence,
            spec_hash=task.spec_hash,
            reason=task.reason if trigger.enabled else None,
        )
        for trigger in spec.triggers
    ]


def _state_of(trigger: Trigger, state: TaskState) -> Literal["on", "off", "paused"]:
    match state:
        case "enabled" if trigger.enabled:
            return "on"
        case "paused" if trigger.enabled:
            return "paused"
        case _:
            return "off"


def _key(spec: TaskSpec, path: str) -> TaskKey:
    application, _, name = path.partition("/")
    return (spec.workspace, application, name)


def _circles(new: Mapping[TaskKey, tuple[TaskSpec, str | None]], others: Mapping[TaskKey, TaskSpec]) -> Sequence[DefinitionError]:
    """The circles that new specifications close, each told for one of them."""
    specs = {**others, **{key: spec for key, (spec, _) in new.items()}}
    upstream = {key: {_key(spec, path) for _, path in spec.upstream()} for key, spec in specs.items()}
    found: list[DefinitionError] = []
    while (around := circle(upstream)) is not None:
        start = next(number for number, key in enumerate(around) if key in new)
        key, following = around[start], around[(start + 1) % (len(around) - 1)]
        spec, place = new[key]
        ring = [*around[start:-1], *around[: start + 1]]
        words = f"a circle: {' waits for '.join(f'{application}/{name}' for _, application, name in ring)}"
        field = next(field_of(way) for way, path in spec.upstream() if _key(spec, path) == following)
        found.append(DefinitionError(words, field=field, file=place, fix="Remove one of these dependencies or triggers"))
        upstream[key] = upstream[key] - {following}
    return found
