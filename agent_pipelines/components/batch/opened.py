"""What a step needs to work on a batch."""

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import dagster as dg

from agent_pipelines.components.step import agent_of
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.materializations import Materializations, RunOfEvents
from agent_pipelines.execution.batch.names import partition_key, partitions_name
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch
from agent_pipelines.runtimes.fleet import Agent

Result = TypeVar("Result")


def nouns_of(hub: Hub, directory: Path) -> BatchNouns:
    """The nouns of batches, for files below a directory."""
    return replace(hub.batch_nouns, directory=directory)


def agents_of_step(context: dg.AssetExecutionContext, spec: TaskSpec) -> Sequence[Agent]:
    """The agents of a batch: those that a broadcast is for, or the task's own."""
    assert spec.batch is not None
    return [agent_of(context, name) for name in spec.batch.to or (spec.agent,)]


async def closing(hub: Hub, agents: Sequence[Agent], work: Awaitable[Result]) -> Result:
    """Do something; after it close agents, and give back what is held of limits."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(hub.runner.close)
        for agent in agents:
            stack.push_async_callback(agent.close)
        return await work


def add_partitions(instance: dg.DagsterInstance, batch: Batch) -> None:
    """Have Dagster know the shards of a batch as partitions."""
    keys = [partition_key(batch.id, number) for number in range(batch.shard_count)]
    # No event is written: the run is not used.
    Materializations(instance, RunOfEvents(batch.run_id, "", "")).add_partitions(partitions_name(batch.task_key), keys)
