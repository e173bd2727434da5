"""The two assets of a task that works on a batch: its shards, which are partitions, and the task's own, the merged result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.components.asset import asset_key, asset_spec, op_name
from agent_pipelines.components.batch.merging import merge
from agent_pipelines.components.batch.shards import work_on_shards
from agent_pipelines.components.batch.splitting import split
from agent_pipelines.components.resource import resource_key
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.names import merge_job, partitions_name

NO_FAILED_ITEMS = "no_failed_items"
"""Name of the check on the merged result. A batch that may fail in part and has shows it as a warning."""


def shards_key(spec: TaskSpec) -> dg.AssetKey:
    """The key of the asset that has the shards of a task's batches as its partitions."""
    return dg.AssetKey([spec.application, spec.name, "shards"])


def merged_asset(spec: TaskSpec, directory: Path) -> dg.AssetsDefinition:
    """The asset of the task. Its run opens a batch; only the merge materializes it. File names are relative to `directory`."""
    assert spec.batch is not None
    key = asset_key(spec)
    merged = asset_spec(spec)

    @dg.multi_asset(
        name=op_name(spec),
        specs=[merged.replace_attributes(deps=[*merged.deps, shards_key(spec)])],
        check_specs=[
            dg.AssetCheckSpec(NO_FAILED_ITEMS, asset=key, blocking=False, description="No item of the newest batch has failed.")
        ],
        can_subset=True,
        pool=spec.pool,
        required_resource_keys=agents_of(spec),
    )
    def body(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        if context.run.job_name == merge_job(spec.key):
            yield from merge(context, spec, directory, key, NO_FAILED_ITEMS)
        else:
            yield from split(context, spec, directory, key)

    return body


def shards_asset(spec: TaskSpec, directory: Path) -> dg.AssetsDefinition:
    """The asset of the shards. Materializing a partition, by whoever does it, works on what is not done of that shard."""
    assert spec.batch is not None
    key = shards_key(spec)

    @dg.multi_asset(
        name=f"{op_name(spec)}_shards",
        specs=[
            dg.AssetSpec(
                key,
                skippable=True,
                deps=[dg.AssetKey.from_user_string(path) for path in spec.dependency_paths],
                description=f"The shards of the batches of {spec.path}, up to {spec.batch.shard_size} items each.",
                group_name=spec.application,
                owners=list(spec.owners),
                tags=spec.tags,
                kinds={"agent"},
                code_version=spec.spec_hash[:16],
                partitions_def=dg.DynamicPartitionsDefinition(name=partitions_name(spec.key)),
                metadata={"agent": spec.agent, "workspace": spec.workspace, "task": spec.path},
            )
        ],
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(spec.batch.shards_per_run),
        pool=spec.pool,
        required_resource_keys=agents_of(spec),
    )
    def body(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        work_on_shards(context, spec, directory, key)
        yield from ()

    return body


def agents_of(spec: TaskSpec) -> set[str]:
    """The resources of the agents that a batch works with: the task's own, and those that a broadcast is for."""
    assert spec.batch is not None
    return {resource_key(agent) for agent in (spec.agent, *spec.batch.to)}
