"""The Dagster asset of a task."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from agent_pipelines.components import outcome
from agent_pipelines.components.resource import resource_key
from agent_pipelines.components.step import execute
from agent_pipelines.core.execution import ExecutionResult
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import trigger_name


def asset_key(spec: TaskSpec) -> dg.AssetKey:
    """The key of a task's asset."""
    return dg.AssetKey([spec.application, spec.name])


def op_name(spec: TaskSpec) -> str:
    """The name of the op behind a task's asset, which is its step in a run; Dagster wants it other than the job's."""
    return f"{spec.application}__{spec.name}__execute"


def asset_spec(spec: TaskSpec) -> dg.AssetSpec:
    """What Dagster shows of a task."""
    return dg.AssetSpec(
        asset_key(spec),
        # A step that waits, is skipped or deduplicated ends without a materialization.
        skippable=True,
        deps=[dg.AssetKey.from_user_string(path) for path in spec.dependency_paths],
        description=spec.intent,
        group_name=spec.application,
        owners=list(spec.owners),
        tags=spec.tags,
        kinds={"agent"},
        code_version=spec.spec_hash[:16],
        metadata={
            "agent": spec.agent,
            "workspace": spec.workspace,
            "risk": spec.risk,
            "session": spec.session.mode,
            "triggers": ", ".join(trigger_name(trigger) for trigger in spec.triggers) or "on demand",
        },
    )


def check_specs(spec: TaskSpec) -> list[dg.AssetCheckSpec]:
    """The checks of a task: its schema and those it declares."""
    key = asset_key(spec)
    declared = [
        dg.AssetCheckSpec(check.name, asset=key, blocking=check.blocking, description=f"`{check.python}`")
        for check in spec.checks
    ]
    added: list[dg.AssetCheckSpec] = []
    if spec.output.schema_ is not None:
        description = "The answer satisfies the declared JSON Schema."
        added.append(dg.AssetCheckSpec(outcome.SCHEMA_CHECK, asset=key, blocking=True, description=description))
    if spec.degrade:
        description = "The result is what was asked for: not an older one, not a part."
        added.append(dg.AssetCheckSpec(outcome.DEGRADED_CHECK, asset=key, description=description))
    return [*added, *declared]


def task_asset(spec: TaskSpec, *, followers: Sequence[TaskSpec] = ()) -> dg.AssetsDefinition:
    """The asset that executes a task when it is materialized; the tasks that follow it leave it a deadline."""

    @dg.multi_asset(
        name=op_name(spec),
        specs=[asset_spec(spec)],
        check_specs=check_specs(spec),
        # Only a subsettable asset may end without its checks.
        can_subset=True,
        pool=spec.pool,
        required_resource_keys={resource_key(agent) for agent in spec.agents},
    )
    def body(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        partition = context.partition_key if context.has_partition_key else None
        yield from _events(spec, execute(context, spec, item=partition, partition=partition, followers=followers))

    return body


def _events(spec: TaskSpec, result: ExecutionResult) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    match outcome.verdict(result):
        case "ran" | "degraded":
            yield outcome.materialization(asset_key(spec), spec, result)
        case "failed":
            # Before the failure, so that a red check is seen as red; there is no materialization that it could condemn.
            yield from outcome.check_results(asset_key(spec), spec, result)
            raise outcome.failure(result)
        case _:
            return
