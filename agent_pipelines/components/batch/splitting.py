"""The step that opens a batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.components import outcome
from agent_pipelines.components.batch.opened import add_partitions, agents_of_step, closing, nouns_of
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.step import asked, show
from agent_pipelines.core.execution import Status
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution import bridge
from agent_pipelines.execution.batch.splitter import Splitter
from agent_pipelines.execution.checks import load_gate
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch


def split(
    context: dg.AssetExecutionContext, spec: TaskSpec, directory: Path, key: dg.AssetKey
) -> Iterator[dg.MaterializeResult[Any]]:
    """Open the batch that a run asks for, or go on with the one that it resumes, and have its shards worked on.

    Materializes nothing: the merge will. Only a run that resumes what is merged already gives that result.
    """
    hub = hub_of(context.instance)
    invocation, run = asked(context, spec)
    agents = agents_of_step(context, spec)
    splitter = Splitter(nouns_of(hub, directory))
    done = bridge.run(closing(hub, agents, splitter.split(invocation, spec, agents, run=run, gate=load_gate(spec))))
    result = done.execution.result()
    if done.outcome == "duplicate":
        result = result.model_copy(update={"deduplicated_into": done.execution.id})
    show(context, result)
    if done.outcome != "duplicate" and done.batch is not None and done.is_open:
        _begin(context, hub, done.batch)
    elif outcome.verdict(result) == "failed":
        raise outcome.failure(result)
    elif done.outcome == "finished" and result.status is Status.SUCCEEDED:
        yield dg.MaterializeResult(asset_key=key, metadata=outcome.metadata(result))


def _begin(context: dg.AssetExecutionContext, hub: Hub, batch: Batch) -> None:
    add_partitions(context.instance, batch)
    with hub.database.transaction() as connection:
        requested = hub.batch_dispatcher.advance(connection, batch.id)
        is_kept = hub.daemons.keeps_time(connection)
    context.log.info(f"batch {batch.id}: {batch.item_count} items in {batch.shard_count} shards, {requested} runs requested")
    if not is_kept:
        context.log.warning("needs `agent-pipelines up`: Dagster's own daemon does not launch what a batch requests")
