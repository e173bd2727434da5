"""The lane of a workspace's bursts in Dagster: the job whose runs they are, and the sensor that shows and switches them."""

from collections.abc import Callable, Collection, Mapping
from typing import cast

import dagster as dg

from agent_pipelines.components.burst_report import BurstReport
from agent_pipelines.components.deployment import HubOf, hub_of, instance_of
from agent_pipelines.components.limits import note_limits
from agent_pipelines.components.lost_reports import LostReports
from agent_pipelines.components.registered_tasks import failing_check, registered_asset
from agent_pipelines.components.resource import AgentResource, resource_key
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.declared import DECLARED, Declared
from agent_pipelines.core.declared_limits import DeclaredLimits
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.engine.burst_settings import BURST, BurstSettings, burst_job_name, lane_sensor_name
from agent_pipelines.engine.launch import tag
from agent_pipelines.engine.materializations import Materializations, RunOfEvents
from agent_pipelines.execution import bridge
from agent_pipelines.execution.burst import BurstWorker
from agent_pipelines.execution.intake import Declarations
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fleet import Agent


def lane_definitions(
    workspace: str,
    tasks: Collection[TaskSpec],
    declared: Declared,
    settings: BurstSettings,
    *,
    limits: DeclaredLimits | None = None,
    hub_of: HubOf = hub_of,
) -> dg.Definitions:
    """What Dagster has of a workspace's bursts. Opens nothing."""
    return dg.Definitions(
        assets=[registered_asset(workspace)],
        asset_checks=[failing_check(workspace, hub_of=hub_of)],
        jobs=[burst_job(workspace, tasks, declared, settings, limits=limits, hub_of=hub_of)],
        sensors=[lane_sensor(workspace, declared, settings, limits=limits, hub_of=hub_of)],
    )


def burst_job(
    workspace: str,
    tasks: Collection[TaskSpec],
    declared: Declared,
    settings: BurstSettings,
    *,
    limits: DeclaredLimits | None = None,
    hub_of: HubOf = hub_of,
) -> dg.JobDefinition:
    """The job whose runs work on ticks, any number of them, of tasks that are declared or registered."""
    name = burst_job_name(workspace)
    specs: Mapping[TaskKey, TaskSpec] = {spec.key: spec for spec in tasks if spec.workspace == workspace}
    resources = {agent: resource_key(agent) for agent in declared.agents}

    @dg.op(
        name=f"{name}__work",
        description=f"Takes ticks of workspace `{workspace}` and executes them, {settings.share} at once.",
        required_resource_keys=set(resources.values()),
    )
    def work(context: dg.OpExecutionContext) -> None:
        hub = hub_of(context.instance)
        if limits is not None:
            note_limits(hub, limits)
        step = context.get_step_execution_context().step.key
        declarations = Declarations(
            tasks=specs,
            agents={agent: _made_by(context, key) for agent, key in resources.items()},
            references=frozenset(declared.references),
        )
        materializations = Materializations(context.instance, RunOfEvents(context.run_id, name, step))
        LostReports(hub, context.instance, workspace).write(but=context.run_id)
        with BurstReport(hub, workspace, materializations, context.log.info, context.log.warning) as report:
            reference = RunRef(run_id=context.run_id, job=name, step=step)
            worker = BurstWorker(hub.burst_nouns, reference, workspace, settings, declarations, report.tell)
            bridge.run(worker.work())
        context.add_output_metadata({"done": worker.done, "failed": worker.failed, **report.verdicts})

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description=f"A burst: executes many ticks of workspace `{workspace}` together. `agent-pipelines up` launches it.",
        tags={BURST: workspace, tag("workspace"): workspace},
    )
    def burst() -> None:
        work()

    return burst


def lane_sensor(
    workspace: str,
    declared: Declared,
    settings: BurstSettings,
    *,
    limits: DeclaredLimits | None = None,
    hub_of: HubOf = hub_of,
) -> dg.SensorDefinition:
    """The sensor that says how the bursts stand. It starts nothing: switched off, the daemon launches no burst."""

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        hub = hub_of(instance_of(context))
        if limits is not None:
            note_limits(hub, limits)
        return dg.SkipReason(_standing(hub, workspace))

    return dg.SensorDefinition(
        lane_sensor_name(workspace),
        job_name=burst_job_name(workspace),
        evaluation_fn=evaluate,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Shows and switches the bursts of workspace `{workspace}`. While it is off, their ticks wait.",
        metadata={
            "workspace": workspace,
            BURST: dg.TextMetadataValue(settings.model_dump_json()),
            DECLARED: dg.TextMetadataValue(declared.model_dump_json()),
        },
    )


def _made_by(context: dg.OpExecutionContext, key: str) -> Callable[[], Agent]:
    return lambda: cast("AgentResource", getattr(context.resources, key)).create()


def _standing(hub: Hub, workspace: str) -> str:
    with hub.database.reading() as connection:
        due = hub.ticks.backlog(connection, workspace=workspace, until=hub.clock.now())
        live = hub.bursts.live(connection, workspace)
        next_due = hub.triggers.next_due_at(connection, "burst", workspace=workspace)
        is_kept = hub.daemons.keeps_time(connection)
    if not is_kept:
        return f"{due} due; needs `agent-pipelines up`: Dagster's own daemon launches no bursts"
    in_flight = sum(burst.in_flight for burst in live)
    bursts = f"{len(live)} burst{'' if len(live) == 1 else 's'}"
    following = "nothing is due next" if next_due is None else f"next due at {isoformat(next_due)}"
    return f"{due} due, {in_flight} in flight in {bursts}, {following}"
