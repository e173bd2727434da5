"""`agent-pipelines execution`: what agents have done."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import JsonValue
from rich.text import Text
from rich.tree import Tree

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import Application, AsJson, Before, Limit, Since, Task, Until, instant
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.journal import JournalWriter
from agent_pipelines.cli.problems import BadInput
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin

if TYPE_CHECKING:
    from agent_pipelines.ledger.spans import Span
    from agent_pipelines.ledger.stored import StoredAttempt, StoredExecution
    from agent_pipelines.ledger.waits import StoredWait

app = typer.Typer(help="What agents have done.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Id of the execution, or the beginning of one.")]

# What a list leaves out: it can be large, and `show` has it.
_LARGE = ("invocation", "text", "output", "checks", "trimmed")
_POLL = 0.5  # seconds between two looks at a running execution


@app.command("list")
def list_(
    context: typer.Context,
    application: Application = None,
    task: Task = None,
    status: Status | None = typer.Option(None, help="Only executions in this state."),
    origin: Origin | None = typer.Option(None, help="Only executions that this asked for."),
    since: Since = None,
    until: Until = None,
    text: str | None = typer.Option(None, help="Only executions whose answer, error or task holds all these words."),
    run: str | None = typer.Option(None, help="Only executions of this Dagster run.", metavar="RUN_ID"),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""
    deployment = Deployment.of(context)
    hub, now = deployment.hub, deployment.hub.clock.now()
    application, task = deployment.chosen(application, task)
    with hub.database.reading() as connection:
        page = hub.executions.list(
            connection,
            application=application,
            task=task,
            status=status,
            origin=origin,
            run_id=run,
            created_from=instant(since, "--since", now),
            created_to=instant(until, "--until", now),
            text=text,
            before=before,
            limit=limit,
        )
    last = page[-1].seq if page else None
    if as_json:
        render.document(
            {"executions": [_summary(execution) for execution in page], "next_before": last if len(page) == limit else None}
        )
        return
    render.table(
        ("id", "task", "origin", "status", "begun", "took", "tries", "tokens", "cost", "error"),
        [
            (
                render.short(execution.id),
                execution.path,
                execution.origin,
                execution.status,
                render.instant(execution.created_at),
                render.seconds(execution.duration_seconds),
                execution.attempts,
                render.tokens(execution.usage.total_tokens),
                render.cost(execution.cost_usd),
                execution.error_class,
            )
            for execution in page
        ],
        empty="no executions",
    )
    render.more(page, limit, last)


@app.command()
def show(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show the whole record of an execution: what was asked, every attempt, what came back, what it cost."""
    deployment = Deployment.of(context)
    execution = _find(deployment, id)
    with deployment.hub.database.reading() as connection:
        attempts = deployment.hub.executions.attempts.of(connection, execution.id)
        waits = deployment.hub.executions.waits.of(connection, execution.id)
    if as_json:
        whole = render.record(execution, **_computed(execution))
        told = [wait.told() for wait in waits]
        render.document({"execution": whole, "attempts": [_attempt(attempt) for attempt in attempts], "waits": told})
        return
    _show_record(execution)
    render.heading("attempts")
    render.table(
        ("number", "node", "model", "status", "begun", "took", "tokens", "cost", "error", "decision"),
        [
            (
                attempt.number,
                attempt.node,
                attempt.model,
                attempt.status,
                render.instant(attempt.started_at),
                render.seconds(_took(attempt)),
                render.tokens(attempt.usage.total_tokens),
                render.cost(attempt.cost_usd),
                attempt.error_class and f"{attempt.error_class} in {attempt.error_stage}: {attempt.error_message}",
                attempt.retry_decision,
            )
            for attempt in attempts
        ],
        empty="none",
    )
    if waits:
        render.heading("waits")
        _show_waits(waits)
    for message in execution.invocation.messages:
        render.heading(f"given: {message.role}")
        render.text(message.content)
    if execution.text:
        render.heading("answer")
        render.text(execution.text)
    if execution.output is not None:
        render.heading("output")
        render.text(render.indented(execution.output))


@app.command()
def events(
    context: typer.Context,
    id: Id,
    after: int = typer.Option(0, help="Only events after this seq.", metavar="SEQ"),
    limit: Limit = 200,
    as_json: AsJson = False,
) -> None:
    """List what the agent did, event by event."""
    deployment = Deployment.of(context)
    execution = _find(deployment, id)
    with deployment.hub.database.reading() as connection:
        page = deployment.hub.ledger.journal.read(connection, execution.id, after=after, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        entries = [render.record(entry) for entry in page]
        next_after = last if len(page) == limit else None
        render.document({"execution_id": execution.id, "events": entries, "next_after": next_after})
        return
    render.table(
        ("seq", "attempt", "at", "kind", "event"),
        [(entry.seq, entry.attempt, render.instant(entry.at), entry.kind, render.brief(entry.body)) for entry in page],
        empty="no events",
    )
    if len(page) == limit:
        render.note(f"later ones: --after {last}")


@app.command()
def logs(
    context: typer.Context,
    id: Id,
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on until the execution has ended."),
) -> None:
    """Print what the agent thought, said and did with tools."""
    deployment = Deployment.of(context)
    hub, execution = deployment.hub, _find(deployment, id)
    writer, seq = JournalWriter(), 0
    while True:
        with hub.database.reading() as connection:
            # The state first: what was recorded before it changed is then read too.
            current = hub.executions.get(connection, execution.id) or execution
            page = hub.ledger.journal.read(connection, execution.id, after=seq)
        writer.write(page)
        if page:
            seq = page[-1].seq
        elif not follow or current.status is not Status.RUNNING:
            break
        else:
            time.sleep(_POLL)
    writer.finish()
    if not seq:
        render.note("no events")
    if current.error_class is not None:
        render.text(f"{current.status}: {current.error_class} in {current.error_stage}: {current.error_message}")


@app.command()
def spans(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show where the time of an execution went."""
    deployment = Deployment.of(context)
    execution = _find(deployment, id)
    with deployment.hub.database.reading() as connection:
        found = deployment.hub.ledger.spans.read(connection, execution.id)
    if as_json:
        shown = [render.record(span, duration_seconds=_length(span)) for span in found]
        render.document({"execution_id": execution.id, "spans": shown})
    elif not found:
        render.note("no spans: they are recorded when the execution ends")
    else:
        for root in _trees(found):
            render.tree(root)


@app.command()
def cancel(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """End an execution that waits, here and at its agent; one that runs is ended by ending its Dagster run."""
    deployment = Deployment.of(context)
    hub, execution = deployment.hub, _find(deployment, id)
    with hub.database.transaction() as connection:
        now = hub.executions.get(connection, execution.id) or execution
        reason = f"cancelled by {deployment.actor}"
        if now.status is not Status.WAITING or not hub.executions.cancel(connection, execution.id, reason):
            raise BadInput(f"execution {execution.id} is {now.status}; only one that waits is cancelled so")
        details: dict[str, JsonValue] = {"execution": execution.id}
        hub.audit.record(connection, actor=deployment.actor, action="execution.cancel", object=now.path, details=details)
        ended = hub.executions.get(connection, execution.id) or now
    if as_json:
        render.document({"execution": render.record(ended, **_computed(ended))})
    else:
        render.text(f"{execution.id} {ended.status}")


def _find(deployment: Deployment, prefix: str) -> "StoredExecution":
    with deployment.hub.database.reading() as connection:
        found = deployment.hub.executions.find(connection, prefix)
    if not found:
        raise BadInput(f"no execution's id begins with {prefix!r}; `agent-pipelines execution list` shows those that there are")
    if len(found) > 1:
        raise BadInput(f"several executions' ids begin with {prefix!r}: {', '.join(execution.id for execution in found)}, ...")
    return found[0]


def _summary(execution: "StoredExecution") -> dict[str, Any]:
    whole = render.record(execution, **_computed(execution))
    return {name: value for name, value in whole.items() if name not in _LARGE}


def _computed(execution: "StoredExecution") -> dict[str, Any]:
    return {"duration_seconds": execution.duration_seconds, "total_tokens": execution.usage.total_tokens}


def _attempt(attempt: "StoredAttempt") -> dict[str, Any]:
    return render.record(attempt, duration_seconds=_took(attempt), total_tokens=attempt.usage.total_tokens)


def _took(attempt: "StoredAttempt") -> float | None:
    return None if attempt.finished_at is None else (attempt.finished_at - attempt.started_at) / 1_000_000


def _show_waits(waits: "Sequence[StoredWait]") -> None:
    render.table(
        ("attempt", "for", "state", "since", "next look", "until", "looks", "failures", "cancel call", "last error"),
        [
            (
                wait.attempt,
                f"human task {wait.human_task_id}" if wait.handle is None else f"{wait.agent}, handle {wait.handle}",
                wait.state,
                render.instant(wait.opened_at),
                render.instant(wait.next_look_at),
                render.instant(wait.deadline_at),
                wait.looks,
                wait.failures,
                wait.cancel,
                wait.last_error,
            )
            for wait in waits
        ],
        empty="none",
    )


def _show_record(execution: "StoredExecution") -> None:
    error = execution.error_class and f"{execution.error_class} in {execution.error_stage}: {execution.error_message}"
    checks = [f"{check.name} {'passed' if check.passed else 'FAILED'}" for check in execution.checks or ()]
    render.fields(
        {
            "execution": execution.id,
            "task": execution.path,
            "status": execution.status,
            "error": error,
            "reason": execution.reason,
            "degraded": execution.degraded,
            "result of": execution.stale_from or execution.cached_from,
            "deadline": render.instant(execution.invocation.deadline_at),
            "asked for by": f"{execution.actor}, trigger {execution.trigger} ({execution.origin})",
            "due": render.instant(execution.due_at),
            "about": render.instant(execution.logical_at) if execution.logical_at != execution.due_at else None,
            "begun": render.instant(execution.created_at),
            "ended": render.instant(execution.finished_at),
            "took": render.seconds(execution.duration_seconds),
            "item": execution.item,
            "Dagster run": execution.run_id,
            "job, step": ", ".join(part for part in (execution.job, execution.step, execution.partition) if part),
            "resumed": f"{execution.resumptions} times" if execution.resumptions else None,
            "agent": execution.agent,
            "in place of": execution.fallback_from,
            "node": execution.node,
            "model": execution.model,
            "prompt version": execution.prompt_version,
            "session": execution.session_id,
            "input tokens": render.tokens(execution.input_tokens),
            "cached tokens": execution.cached_input_tokens,
            "output tokens": render.tokens(execution.output_tokens),
            "reasoning tokens": execution.reasoning_tokens,
            "cost": render.cost(execution.cost_usd),
            "left out": "; ".join(execution.trimmed or ()),
            "checks": ", ".join(checks),
            "variables": render.brief(execution.invocation.variables) if execution.invocation.variables else None,
            "event": render.brief(execution.invocation.event) if execution.invocation.event else None,
            "trace": execution.trace_id,
            "specification": execution.spec_hash[:12],
            "key": execution.idempotency_key[:12],
            "deduplicated by": execution.dedupe_key,
        }
    )


def _length(span: "Span") -> float:
    return (span.finished_at - span.started_at) / 1_000_000


def _trees(found: "Sequence[Span]") -> list[Tree]:
    trees = {span.span_id: Tree(_label(span)) for span in found}
    roots: list[Tree] = []
    for span in found:
        parent = trees.get(span.parent_id or "")
        if parent is None:
            roots.append(trees[span.span_id])
        else:
            parent.children.append(trees[span.span_id])
    return roots


def _label(span: "Span") -> Text:
    error = span.attributes.get("error.type")
    words = f"{span.name}  {render.seconds(_length(span))}" + (f"  {error}" if error else "")
    return Text(render.visible(words), style="red" if span.status == "error" else "")
