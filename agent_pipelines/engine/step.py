"""What a step of a Dagster run says of itself."""

from dataclasses import dataclass

from dagster import AssetExecutionContext, DagsterInstance, DagsterRun, OpExecutionContext

_RESUMED = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry", "dagster/retry_number")

StepContext = OpExecutionContext | AssetExecutionContext
"""For rooms that pass a context on."""


@dataclass(frozen=True)
class RunStep:
    """A step, and `first_run_id`, the run whose work it does: that run itself, or the one that it resumes after a failure."""

    run_id: str
    first_run_id: str
    job: str
    key: str

    @classmethod
    def of(cls, context: StepContext) -> "RunStep":
        """Read it from the context of an op or an asset."""
        run = context.run
        return cls(run.run_id, _first(context.instance, run).run_id, run.job_name, context.get_step_execution_context().step.key)


def _first(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    while run.parent_run_id is not None and any(name in run.tags for name in _RESUMED):
        parent = instance.get_run_by_id(run.parent_run_id)
        if parent is None:
            return run
        run = parent
    return run
