"""The jobs of a task that works on a batch, besides the one that opens it, which is that of any task."""

from collections.abc import Sequence
from typing import Any

from agent_pipelines.components.asset import asset_key
from agent_pipelines.components.batch.asset import shards_key
from agent_pipelines.components.job import job_of
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.names import merge_job, shards_job


def batch_jobs(spec: TaskSpec) -> Sequence[Any]:
    """The jobs that work on shards and that merge, each in the process of its run."""
    return (
        job_of(spec, shards_job(spec.key), shards_key(spec), f"Works on shards of batches of {spec.path}."),
        job_of(spec, merge_job(spec.key), asset_key(spec), f"Merges the results of a batch of {spec.path}."),
    )
