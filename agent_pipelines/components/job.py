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
    return dg.define_asset_job(
        job_name(spec),
        selection=[asset_key(spec)],
        description=spec.intent,
        executor_def=dg.in_process_executor,
        tags={
            **spec.tags,
            **({"dagster/priority": str(spec.precedence)} if spec.precedence else {}),
            tag("workspace"): spec.workspace,
            tag("application"): spec.application,
        },
    )
