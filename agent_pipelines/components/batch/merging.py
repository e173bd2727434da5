"""The step that merges a batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.components import outcome
from agent_pipelines.components.batch.opened import nouns_of
from agent_pipelines.components.batch.poison import poison, where_to_see
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.step import show
from agent_pipelines.core.batch import ENDED_BATCH, BatchStatus
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status, Verdict
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import Launch, tag
from agent_pipelines.engine.tick import MERGE
from agent_pipelines.execution import bridge
from agent_pipelines.execution.batch.merge import Merger
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch

RESULTS = "batches"
"""Directory below that of Dagster's storage that the results of batches are written to, a file of JSON lines each."""


def merge(
    context: dg.AssetExecutionContext, spec: TaskSpec, directory: Path, key: dg.AssetKey, check: str
) -> Iterator[dg.MaterializeResult[Any]]:
    """Merge the batch that a run names, or the newest one that is to be merged, and materialize the task's asset.

    Raises dg.Failure that names the failed items if there are more of them than the batch allows.
    """
    hub = hub_of(context.instance)
    batch = _asked(context, hub, spec)
    merger = Merger(nouns_of(hub, directory))
    if batch.status in ENDED_BATCH:
        result = _known(hub, batch)
    else:
        file = write_results(merger, context.instance, batch)
        context.log.info(f"the results of batch {batch.id} are in {file}")
        step = context.get_step_execution_context().step.key
        run = RunRef(run_id=context.run.run_id, job=context.run.job_name, step=step, parent_run_id=context.run.parent_run_id)
        result = bridge.run(merger.merge(batch.id, spec, run=run))
    with hub.database.reading() as connection:
        batch = hub.batches.get(connection, batch.id) or batch
    show(context, result)
    metadata = _metadata(hub, context.instance, batch, result)
    if result.status is not Status.SUCCEEDED:
        raise dg.Failure(f"{result.error_class}: {result.error_message}", metadata=metadata, allow_retries=False)
    made = outcome.materialization(key, spec, result)
    found = dg.AssetCheckResult(
        asset_key=key,
        check_name=check,
        passed=not batch.failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=poison(hub, batch) if batch.failed else None,
        metadata={"failed": batch.failed},
    )
    yield made._replace(metadata=metadata, check_results=[found])


def write_results(merger: Merger, instance: dg.DagsterInstance, batch: Batch) -> Path:
    """Write the results of a batch in order, a JSON object a line; the file is there as a whole or not at all."""
    file = results_file(instance, batch)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    merger.write(batch.id, unfinished)
    unfinished.rename(file)
    return file


def results_file(instance: dg.DagsterInstance, batch: Batch) -> Path:
    """The file of a batch's results."""
    return Path(instance.storage_directory()) / RESULTS / f"{batch.id}.jsonl"


def _asked(context: dg.AssetExecutionContext, hub: Hub, spec: TaskSpec) -> Batch:
    run = context.run
    named = run.tags.get(tag("batch"))
    launch = Launch.from_tags(run.tags)
    with hub.database.transaction() as connection:
        if named is not None:
            batch = hub.batches.get(connection, named)
        else:
            newest = hub.batches.list(
                connection, workspace=spec.workspace, application=spec.application, task=spec.name, status=BatchStatus.MERGING
            )
            batch = newest[0] if newest else None
        if batch is None or batch.task_key != spec.key:
            raise dg.Failure("there is no batch to be merged; run the task to open one", allow_retries=False)
        if launch is not None and launch.trigger == MERGE and run.parent_run_id is None:
            of = {"run_id": run.run_id, "execution_id": batch.execution_id}
            hub.ticks.decide(connection, batch.task_key, MERGE, launch.occurrence, Verdict.RAN, **of)
    return batch


def _known(hub: Hub, batch: Batch) -> ExecutionResult:
    with hub.database.reading() as connection:
        stored = hub.executions.get(connection, batch.execution_id)
    if stored is None or batch.status is BatchStatus.CANCELLED:
        raise dg.Failure(f"batch {batch.id} was cancelled; `agent-pipelines batch resume` carries it on", allow_retries=False)
    return stored.result()


def _metadata(hub: Hub, instance: dg.DagsterInstance, batch: Batch, result: ExecutionResult) -> dict[str, Any]:
    with hub.database.reading() as connection:
        progress = hub.batches.progress(connection, batch.id)
    assert progress is not None
    found = {
        **outcome.metadata(result),
        "batch": batch.id,
        "items": batch.item_count,
        "done": progress.done,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "shards": batch.shard_count,
        "cost_usd": progress.cost_usd,
        "total_tokens": progress.tokens,
        "batch_seconds": round(progress.elapsed_seconds, 3),
        "results": dg.MetadataValue.path(str(results_file(instance, batch))),
    }
    if progress.per_second is not None:
        found["per_second"] = round(progress.per_second, 2)
    if batch.failed:
        found |= {"failed_items": dg.MetadataValue.md(poison(hub, batch)), "see": where_to_see(batch)}
    return found
