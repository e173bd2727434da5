"""An occurrence of a trigger on its way to Dagster: claimed in our record, then requested as a run."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import JsonValue

from agent_pipelines.components.registered_tasks import ASSET
from agent_pipelines.components.watch.sight import Due, Repair, Repaired
from agent_pipelines.context.composer import trigger_variables
from agent_pipelines.core.errors import DefinitionError, ExecutionFailed
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.core.trigger import Trigger, trigger_name
from agent_pipelines.engine.declaration import DeclaredTask, DeclaredTriggers
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.tick import CONTINUATION, MERGE, REPAIR, SHARD, Lane, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.store.database import Connection

RESERVED = {
    REPAIR: "the ticks of repairs",
    CONTINUATION: "the ticks of continuations",
    SHARD: "the shards of batches",
    MERGE: "the merging of batches",
    "triggers": "the sensor of a task",
}
"""Names that no trigger may have, and what they are kept for."""


RESERVED_APPLICATIONS = {"agent_pipelines": "the jobs of every project", ASSET: "the assets of registered tasks"}
"""Names that no application of declared tasks may have, and what they are kept for."""


def refuse_reserved_names(spec: TaskSpec) -> None:
    """Raise DefinitionError if a trigger or the application has a name that is kept for something else."""
    if spec.application in RESERVED_APPLICATIONS:
        problem = f"the name {spec.application!r} is kept for {RESERVED_APPLICATIONS[spec.application]}"
        raise DefinitionError(problem, field="application", fix="Choose another")
    for trigger in spec.triggers:
        name = trigger_name(trigger)
        if name in RESERVED:
            raise DefinitionError(
                f"the name {name!r} is kept for {RESERVED[name]}", field=f"triggers.{name}.name", fix="Choose another"
            )


def declared(spec: TaskSpec, job_name: str, *triggers: Trigger) -> DeclaredTriggers:
    """What the schedule or the sensor of some of a task's triggers says of them to the daemon."""
    workspace, application, name = spec.key
    task = DeclaredTask(
        workspace=workspace,
        application=application,
        task=name,
        job=job_name,
        lane=spec.lane,
        priority=spec.precedence,
        spec_hash=spec.spec_hash,
    )
    return DeclaredTriggers(task=task, triggers=triggers)


def claim(
    hub: Hub,
    connection: Connection,
    task: TaskKey,
    trigger: Trigger,
    due: Due,
    *,
    lane: Lane = "run",
    priority: int = 0,
    spec_hash: str | None = None,
    inputs: Mapping[str, JsonValue] | None = None,
) -> bool:
    """Claim the tick of an occurrence, and give its verdict at once if it has one or if its variables cannot be rendered.

    Returns whether nobody had claimed it before.
    """
    verdict, reason = due.verdict, due.reason
    variables: dict[str, JsonValue] = {}
    if verdict is None:
        try:
            variables = trigger_variables(trigger, event=due.event, due_at=due.due_at, logical_at=due.logical_at)
        except ExecutionFailed as error:
            verdict, reason = Verdict.LAUNCH_FAILED, error.message
    if recordable(variables) != variables:
        variables = {}  # secrets stay out of records and tags; the run renders them for itself
    name = trigger_name(trigger)
    _, is_new = hub.ticks.claim(
        connection,
        task,
        name,
        due.occurrence,
        origin=due.origin,
        due_at=due.due_at,
        logical_at=due.logical_at,
        inputs={**due.inputs, **(inputs or {}), "variables": variables},
        revision=revision_of(trigger),
        lane=lane,
        priority=priority,
        spec_hash=spec_hash,
    )
    if verdict is not None and is_new:  # a tick that is claimed already has a run, whose verdict counts
        hub.ticks.decide(connection, task, name, due.occurrence, verdict, reason=reason)
    return is_new


def claim_repair(
    hub: Hub, connection: Connection, repair: Repair, *, inputs: Mapping[str, JsonValue], lane: Lane = "run"
) -> bool:
    """Claim the tick that runs a failed upstream once more; returns whether nobody had claimed it before."""
    _, is_new = hub.ticks.claim(
        connection,
        repair.tick.task_key,
        REPAIR,
        repair.occurrence,
        origin=Origin.AFTER,
        due_at=hub.clock.now(),
        logical_at=repair.launch.logical_at,
        inputs={**repair.inputs, **inputs},
        lane=lane,
        priority=repair.tick.priority,
        spec_hash=repair.tick.spec_hash,
    )
    return is_new


def note_repaired(hub: Hub, connection: Connection, repaired: Repaired) -> None:
    """Give the tick of a repair its verdict."""
    tick, of = repaired.tick, {"run_id": repaired.run_id, "execution_id": repaired.execution_id}
    hub.ticks.decide(connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.RAN, **of)


def request(tick: Tick, **more: Any) -> dg.RunRequest:
    """The request of a run for a tick: the same, with the same run key, whenever it is made."""
    _, launch, tags = launch_of(tick)
    return dg.RunRequest(run_key=f"{tick.trigger}:{tick.occurrence}", tags={**launch.tags(), **tags}, **more)
