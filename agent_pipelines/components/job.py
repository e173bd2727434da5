"""The Dagster job of a task."""

from typing import Any

import dagster as dg

from agent_pipelines.components.asset import asset_key
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import tag


def job_name(spec: TaskSpec) -> str:
    """The name of a task's job."""
    return f"{spec.application}__{spec.name}"


def task_job(spec: TaskSpec) -> Any:
    """The job that materializes a task's asset, in the process of its run."""
    return job_of(spec, job_name(spec), asset_key(spec), spec.intent)


def job_of(spec: TaskSpec, name: str, key: dg.AssetKey, description: str) -> Any:
    """A job that materializes one asset of a task, with the priority and the tags of the task."""
    return dg.define_asset_job(
        name,
        selection=[key],
        description=description,
        executor_def=dg.in_process_executor,
        tags={
            **spec.tags,
            **({"dagster/priority": str(spec.precedence)} if spec.precedence else {}),
            tag("workspace"): spec.workspace,
            tag("application"): spec.application,
        },
    )
