"""Tasks at a glance: what is declared, what happened last, what is due next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Cron, Interval, Trigger, trigger_name
from agent_pipelines.engine.due import next_due
from agent_pipelines.insight.triggers import describe, remarks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Database


@dataclass(frozen=True)
class KnownTask:
    """A task and where its specification was found: in a file, or in the record of an execution."""

    spec: TaskSpec
    found_in: str
    is_declared: bool
    prompt_in: str | None = None


@dataclass(frozen=True)
class KnownTrigger:
    """A trigger of a task. `is_on` is None if that cannot be known without the declaration, `next_due` if it has no instant."""

    name: str
    kind: str
    words: str
    is_on: bool | None
    next_due: Microseconds | None
    remarks: Sequence[str] = ()


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
    """The tasks that have run, with the specification of the newest execution of each."""
    found: list[KnownTask] = []
    with database.reading() as connection:
        for _, application, name in ledger.specs.tasks(connection, workspace=workspace):
            newest = ledger.executions.list(connection, workspace=workspace, application=application, task=name, limit=1)
            spec = ledger.specs.get(connection, newest[0].spec_hash) if newest else None
            if spec is not None:
                found.append(KnownTask(spec, f"execution {newest[0].id}", is_declared=False))
    return found


def overview(
    database: Database, ledger: Ledger, task: KnownTask, *, now: Microseconds, switched: Mapping[str, bool]
) -> TaskOverview:
    """What there is to say of a task; `switched` are the schedules and sensors that somebody has switched on or off."""
    spec = task.spec
    with database.reading() as connection:
        newest = ledger.executions.list(
            connection, workspace=spec.workspace, application=spec.application, task=spec.name, limit=1
        )
    triggers = [_known(spec, trigger, now, switched, is_declared=task.is_declared) for trigger in spec.triggers]
    return TaskOverview(task, triggers, newest[0] if newest else None)


def _known(
    spec: TaskSpec, trigger: Trigger, now: Microseconds, switched: Mapping[str, bool], *, is_declared: bool
) -> KnownTrigger:
    name, told = trigger_name(trigger), remarks(spec, trigger)
    if not is_declared:
        return KnownTrigger(name, trigger.kind, describe(trigger), None, None, told)
    # Those that repeat have a schedule each, the others share a sensor.
    owner = name if isinstance(trigger, Cron | Interval) else "triggers"
    is_on = switched.get(f"{spec.application}__{spec.name}__{owner}", trigger.enabled)
    return KnownTrigger(name, trigger.kind, describe(trigger), is_on, next_due(trigger, now) if is_on else None, told)
