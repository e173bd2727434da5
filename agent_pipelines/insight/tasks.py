"""Tasks at a glance: what is declared, what happened last, what is due next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Cron, Interval, Trigger, trigger_name
from agent_pipelines.engine.due import next_due
from agent_pipelines.engine.triggers import StoredTrigger, Triggers
from agent_pipelines.insight.triggers import describe, remarks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Database


@dataclass(frozen=True)
class KnownTask:
    """A task and where its specification was found: in a file, in a registered version, or in the record of an execution.

    `state` is the one of a registered task, `reason` why it is paused.
    """

    spec: TaskSpec
    found_in: str
    is_declared: bool
    prompt_in: str | None = None
    version: int | None = None
    state: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class KnownTrigger:
    """A trigger of a task.

    `is_on` is None if that cannot be known without the declaration, `next_due` if it has no instant. `paused` is the reason
    for which somebody holds it.
    """

    name: str
    kind: str
    words: str
    is_on: bool | None
    next_due: Microseconds | None
    remarks: Sequence[str] = ()
    paused: str | None = None


@dataclass(frozen=True)
class TaskOverview:
    """A task with its newest execution and its triggers."""

    task: KnownTask
    triggers: Sequence[KnownTrigger]
    last: StoredExecution | None

    @property
    def next_due(self) -> Microseconds | None:
        """The first instant at which a trigger that is on is due; None if no such instant is known."""
        return min((trigger.next_due for trigger in self.triggers if trigger.next_due is not None), default=None)


def recorded_tasks(database: Database, ledger: Ledger, *, workspace: str = "default") -> Sequence[KnownTask]:
    """The tasks that have run and are not registered, with the specification of the newest execution of each."""
    found: list[KnownTask] = []
    with database.reading() as connection:
        for _, application, name in ledger.specs.tasks(connection, workspace=workspace, unregistered_only=True):
            newest = ledger.executions.list(connection, workspace=workspace, application=application, task=name, limit=1)
            spec = ledger.specs.get(connection, newest[0].spec_hash) if newest else None
            if spec is not None:
                found.append(KnownTask(spec, f"execution {newest[0].id}", is_declared=False))
    return found


def overview(
    database: Database,
    ledger: Ledger,
    triggers: Triggers,
    task: KnownTask,
    *,
    now: Microseconds,
    switched: Mapping[str, bool],
) -> TaskOverview:
    """What there is to say of a task; `switched` are the schedules and sensors that somebody has switched on or off."""
    spec = task.spec
    with database.reading() as connection:
        newest = ledger.executions.list(
            connection, workspace=spec.workspace, application=spec.application, task=spec.name, limit=1
        )
        stored = {each.trigger: each for each in triggers.list(connection, task=spec.key)}
    known = [_known(task, trigger, now, switched, stored.get(trigger_name(trigger))) for trigger in spec.triggers]
    return TaskOverview(task, known, newest[0] if newest else None)


def switched_on(spec: TaskSpec, switched: Mapping[str, bool]) -> dict[str, bool]:
    """Whether each trigger of a declared task is on in Dagster; `switched` as in `overview`."""
    return {trigger_name(trigger): _is_on(spec, trigger, switched) for trigger in spec.triggers}


def _known(
    task: KnownTask, trigger: Trigger, now: Microseconds, switched: Mapping[str, bool], stored: StoredTrigger | None
) -> KnownTrigger:
    name, told = trigger_name(trigger), remarks(task.spec, trigger)
    if task.version is not None:
        is_on = stored is not None and stored.state == "on"
        following = None if stored is None else stored.next_due_at
    elif task.is_declared:
        is_on = _is_on(task.spec, trigger, switched)
        following = next_due(trigger, now) if is_on else None
    else:
        return KnownTrigger(name, trigger.kind, describe(trigger), None, None, told)
    if stored is not None and stored.state == "paused" and (is_on or task.version is not None):
        return KnownTrigger(name, trigger.kind, describe(trigger), False, None, told, stored.reason or "no reason given")
    return KnownTrigger(name, trigger.kind, describe(trigger), is_on, following, told)


def _is_on(spec: TaskSpec, trigger: Trigger, switched: Mapping[str, bool]) -> bool:
    # Those that repeat have a schedule each, the others share a sensor.
    owner = trigger_name(trigger) if isinstance(trigger, Cron | Interval) else "triggers"
    return switched.get(f"{spec.application}__{spec.name}__{owner}", trigger.enabled)
