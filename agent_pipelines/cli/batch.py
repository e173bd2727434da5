"""`agent-pipelines batch`: large work over many items, how far it is, and what is to become of it."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import Application, AsJson, Before, Limit, Task
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import FAILURE, BadInput
from agent_pipelines.core.batch import ENDED_BATCH, BatchStatus
from agent_pipelines.core.execution import Status

if TYPE_CHECKING:
    from agent_pipelines.ledger.batches import Batch, Progress, Shard

app = typer.Typer(help="Large work over many items.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Id of the batch, or the beginning of one.")]

_POLL = 0.5  # seconds between two looks at a batch
_NAMED = 20  # failed items that `show` names

# What a list leaves out.
_LARGE = ("invocation", "fingerprint")


@app.command("list")
def list_(
    context: typer.Context,
    application: Application = None,
    task: Task = None,
    status: BatchStatus | None = typer.Option(None, help="Only batches in this state."),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    deployment = Deployment.of(context)
    hub = deployment.hub
    application, task = deployment.chosen(application, task)
    with hub.database.reading() as connection:
        page = hub.batches.list(connection, application=application, task=task, status=status, before=before, limit=limit)
        progress = {batch.id: hub.batches.progress(connection, batch.id) for batch in page}
    last = page[-1].seq if page else None
    if as_json:
        told = [_summary(batch, progress[batch.id]) for batch in page]
        render.document({"batches": told, "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("id", "task", "status", "items", "done", "failed", "skipped", "begun", "ended", "cost"),
        [_row(batch, progress[batch.id]) for batch in page],
        empty="no batches",
    )
    render.more(page, limit, last)


@app.command()
def show(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show a batch: how far it is, its shards, and the first items that failed."""
    deployment = Deployment.of(context)
    hub, batch = deployment.hub, _find(deployment, id)
    with hub.database.reading() as connection:
        progress = hub.batches.progress(connection, batch.id)
        shards = hub.batches.shards(connection, batch.id)
        failed = hub.batch_results.page(connection, batch.id, status=Status.FAILED, limit=_NAMED)
    if as_json:
        shown = [render.record(shard) for shard in shards]
        worst = [render.record(item) for item in failed]
        render.document({"batch": _summary(batch, progress), "shards": shown, "failed_items": worst})
        return
    render.fields(
        {"batch": batch.id, "task": batch.path, "status": batch.status, "reason": batch.reason, **_fields(batch, progress)}
    )
    render.heading("shards")
    render.table(
        ("number", "items", "status", "done", "failed", "skipped", "tries", "cost", "run", "reason"),
        [_shard_row(shard) for shard in shards],
        empty="none yet",
    )
    if failed:
        render.heading("failed items")
        render.table(
            ("item", "execution", "error"),
            [(each.item, render.short(each.execution_id), f"{each.error_class}: {each.error_message}") for each in failed],
            empty="",
        )
        if batch.failed > len(failed):
            render.note(f"all of them: agent-pipelines batch items {render.short(batch.id)} --status failed")


@app.command()
def watch(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Tell how far a batch is until it ends; the exit code is 1 if it did not succeed.

    With --json one document a line, whenever something has changed.
    """
    deployment = Deployment.of(context)
    batch = _find(deployment, id)
    console = render.console()
    told: Progress | None = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            with deployment.hub.database.reading() as connection:
                now = deployment.hub.batches.progress(connection, batch.id)
            assert now is not None
            if as_json and (told is None or _counts(told) != _counts(now)):
                print(json.dumps({"batch": batch.id, **_progress(now)}), flush=True)  # noqa: T201
            elif console.is_terminal and not as_json:
                live.update(Text(_line(now)), refresh=True)
            elif not as_json and (told is None or _counts(told) != _counts(now)):
                render.text(_line(now))
            told = now
            if now.status in ENDED_BATCH:
                break
            time.sleep(_POLL)
    if not as_json and console.is_terminal:
        render.text(_line(told))
    if told.status is not BatchStatus.SUCCEEDED:
        raise typer.Exit(FAILURE)


@app.command()
def items(
    context: typer.Context,
    id: Id,
    status: Status | None = typer.Option(None, help="Only items in this state."),
    after: int = typer.Option(-1, help="Only items after this position, from 0.", metavar="POSITION"),
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the items of a batch in order: each is an execution."""
    deployment = Deployment.of(context)
    hub, batch = deployment.hub, _find(deployment, id)
    with hub.database.reading() as connection:
        page = hub.batch_results.page(connection, batch.id, status=status, after=after, limit=limit)
    last = page[-1].position if len(page) == limit else None
    if as_json:
        shown = [render.record(each) for each in page]
        render.document({"batch": batch.id, "items": shown, "next_after": last})
        return
    render.table(
        ("position", "item", "status", "tries", "cost", "execution", "error"),
        [
            (
                each.position,
                each.item,
                each.status,
                each.attempts,
                render.cost(each.cost_usd),
                render.short(each.execution_id),
                each.error_class and f"{each.error_class}: {each.error_message}",
            )
            for each in page
        ],
        empty="no items",
    )
    if last is not None:
        render.note(f"further ones: --after {last}")


@app.command()
def cancel(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Cancel a batch; what is done stays done, and `resume` carries it on."""
    from agent_pipelines.engine.gateway import DagsterGateway

    deployment = Deployment.of(context)
    batch = _find(deployment, id)
    runs = deployment.hub.batch_verbs.cancel(batch.id, actor=deployment.actor)
    gateway = DagsterGateway(deployment.instance)
    # Those that cannot be reached from here see it in the record.
    ended = [run_id for run_id in runs if gateway.cancel(run_id)]
    _tell(batch, as_json, f"batch {batch.id} is cancelled", cancelled_runs=ended)


@app.command()
def resume(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Carry a failed or cancelled batch on: what is not done is done, failed items once more."""
    deployment = Deployment.of(context)
    batch = _find(deployment, id)
    shards = deployment.hub.batch_verbs.resume(batch.id, actor=deployment.actor)
    _tell(batch, as_json, f"batch {batch.id} goes on with {shards} shards", shards=shards)
    _note_daemon(deployment)


@app.command()
def rerun(
    context: typer.Context,
    id: Id,
    failed: Annotated[bool, typer.Option("--failed", help="Only the items that failed; required, as nothing else is possible.")],
    as_json: AsJson = False,
) -> None:
    """Do the failed items of a batch once more, and merge again. All items anew are a new batch: `task run`."""
    deployment = Deployment.of(context)
    batch = _find(deployment, id)
    if not failed:
        raise BadInput("--failed is missing: a batch does no finished item again; for a new batch use `task run`")
    shards = deployment.hub.batch_verbs.rerun_failed(batch.id, actor=deployment.actor)
    _tell(batch, as_json, f"batch {batch.id} does its failed items again, in {shards} shards", shards=shards)
    _note_daemon(deployment)


def _find(deployment: Deployment, prefix: str) -> "Batch":
    with deployment.hub.database.reading() as connection:
        found = deployment.hub.batches.find(connection, prefix)
    if not found:
        raise BadInput(f"no batch's id begins with {prefix!r}; `agent-pipelines batch list` shows those that there are")
    if len(found) > 1:
        raise BadInput(f"several batches' ids begin with {prefix!r}: {', '.join(batch.id for batch in found)}, ...")
    return found[0]


def _tell(batch: "Batch", as_json: bool, words: str, **more: Any) -> None:
    if as_json:
        render.document({"batch": batch.id, **more})
    else:
        render.text(words)


def _note_daemon(deployment: Deployment) -> None:
    if not deployment.keeps_time():
        render.note("requested, but no daemon starts its runs: start `agent-pipelines up`")


def _summary(batch: "Batch", progress: "Progress | None") -> dict[str, Any]:
    whole = render.record(batch)
    return {name: value for name, value in whole.items() if name not in _LARGE} | (
        {} if progress is None else {"progress": _progress(progress)}
    )


def _progress(progress: "Progress") -> dict[str, Any]:
    shards = {str(status): count for status, count in progress.shards.items()}
    return {**asdict(progress), "status": str(progress.status), "shards": shards, "open": progress.open}


def _counts(progress: "Progress") -> tuple[object, ...]:
    return (progress.status, progress.items, progress.done, progress.failed, progress.skipped, tuple(progress.shards.items()))


def _row(batch: "Batch", progress: "Progress | None") -> Sequence[Any]:
    assert progress is not None
    return (
        render.short(batch.id),
        batch.path,
        batch.status,
        progress.items,
        progress.done,
        progress.failed,
        progress.skipped,
        render.instant(batch.created_at),
        render.instant(batch.finished_at),
        render.cost(progress.cost_usd),
    )


def _shard_row(shard: "Shard") -> Sequence[Any]:
    return (
        shard.number,
        shard.item_count,
        shard.status,
        shard.done,
        shard.failed,
        shard.skipped,
        shard.attempts,
        render.cost(shard.cost_usd),
        render.short(shard.run_id),
        shard.reason,
    )


def _fields(batch: "Batch", progress: "Progress | None") -> dict[str, Any]:
    if progress is None:
        return {}
    return {
        "items": f"{progress.items:,} in {batch.shard_count:,} shards of {batch.shard_size:,}",
        "done": progress.done,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "rate": None if progress.per_second is None else f"{progress.per_second:,.1f} items/s",
        "remaining": render.seconds(progress.remaining_seconds),
        "took": render.seconds(progress.elapsed_seconds),
        "cost": render.cost(progress.cost_usd),
        "tokens": render.tokens(progress.tokens),
        "begun": render.instant(batch.created_at),
        "reopened": render.instant(batch.reopened_at),
        "ended": render.instant(batch.finished_at),
        "execution": batch.execution_id,
        "split by run": batch.run_id,
    }


def _line(progress: "Progress") -> str:
    parts = [
        str(progress.status),
        f"{progress.done:,} of {progress.items:,} done",
        f"{progress.failed:,} failed",
        f"{progress.skipped:,} skipped",
        "" if progress.per_second is None else f"{progress.per_second:,.1f}/s",
        "" if progress.remaining_seconds is None else f"{render.seconds(progress.remaining_seconds)} left",
        render.cost(progress.cost_usd),
    ]
    return ", ".join(part for part in parts if part)
