"""The asset that all registered tasks of a workspace are partitions of, and the check that names those which fail."""

import dagster as dg

from agent_pipelines.components.deployment import HubOf, hub_of
from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.engine.burst_settings import burst_job_name
from agent_pipelines.hub import Hub

ASSET = "registered_tasks"
CHECK = "no_failed_tasks"

_LOOKS_BACK: Microseconds = 86_400_000_000
_NAMED = 20  # tasks that the check names


def registered_key(workspace: str) -> dg.AssetKey:
    """The key of the asset."""
    return dg.AssetKey([ASSET] if workspace == "default" else [ASSET, workspace])


def partitions_name(workspace: str) -> str:
    """The name of its dynamic partitions; their keys are `application/task`."""
    return f"{ASSET}__{workspace}"


def registered_asset(workspace: str) -> dg.AssetSpec:
    """The asset. Dagster does not materialize it: bursts report what they have done."""
    return dg.AssetSpec(
        registered_key(workspace),
        description=f"The tasks that were registered at run time in workspace `{workspace}`, each a partition.",
        partitions_def=dg.DynamicPartitionsDefinition(name=partitions_name(workspace)),
        group_name="agent_pipelines",
        kinds={"agent"},
        metadata={"workspace": workspace},
    )


def failing_check(workspace: str, *, hub_of: HubOf = hub_of) -> dg.AssetChecksDefinition:
    """The check that is red as long as the newest execution of a task of a burst is a failure of the last day."""

    @dg.asset_check(
        asset=registered_key(workspace),
        name=CHECK,
        description="No task of the bursts of this workspace has failed within a day and not succeeded since. "
        "Bursts evaluate it each minute while they work.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        passed, words = failing_words(hub_of(context.instance), workspace)
        return dg.AssetCheckResult(passed=passed, description=words)

    return check


def failing_words(hub: Hub, workspace: str) -> tuple[bool, str]:
    """Whether no task is failing, and which ones are."""
    since = hub.clock.now() - _LOOKS_BACK
    with hub.database.reading() as connection:
        failing = hub.executions.failing(connection, workspace=workspace, job=burst_job_name(workspace), since=since)
    if not failing:
        return True, "no task is failing"
    lines = [
        f"- `{path}`: {each.error_class} at {isoformat(each.finished_at)}, execution {each.execution_id}"
        for path, each in list(failing.items())[:_NAMED]
    ]
    if len(failing) > _NAMED:
        lines.append(f"- and {len(failing) - _NAMED} more")
    return False, "\n".join([f"{len(failing)} tasks are failing:", *lines])
