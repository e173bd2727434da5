"""`agent-pipelines task`: what is declared, and launching it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, instant, variables
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import FAILURE
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Status, Verdict

if TYPE_CHECKING:
    from agent_pipelines.engine.ticks import Tick
    from agent_pipelines.insight.tasks import KnownTask, KnownTrigger, TaskOverview
    from agent_pipelines.ledger.stored import StoredExecution

app = typer.Typer(help="Tasks: what is declared, what happened last, what is due next.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The task: application/task, or a name that only one application has.")]


@app.command("list")
def list_(
    context: typer.Context,
    application: str | None = typer.Option(None, help="Only this application."),
    as_json: AsJson = False,
) -> None:
    """List the tasks that the project declares, and those that only the record knows.

    Next due is the first instant at which a trigger of time that is switched on is due.
    """
    deployment = Deployment.of(context)
    found = [_overview(deployment, task) for task in deployment.tasks if application in (None, task.spec.application)]
    if as_json:
        render.document({"tasks": [_summary(overview) for overview in found]})
        return
    render.table(
        ("task", "triggers", "agent", "last status", "last begun", "next due", "declared"),
        [
            (
                overview.task.spec.path,
                ", ".join(trigger.words + ("" if trigger.is_on is not False else " (off)") for trigger in overview.triggers)
                or "on demand",
                overview.task.spec.agent,
                overview.last and overview.last.status,
                overview.last and render.instant(overview.last.created_at),
                render.instant(overview.next_due),
                "yes" if overview.task.is_declared else "no" if deployment.project else render.UNKNOWN,
            )
            for overview in found
        ],
        empty="no tasks",
    )
    if deployment.project is None:
        render.note("there is no project here, so these are the tasks that have run; name the project with --project")


@app.command()
def show(context: typer.Context, task: Name, as_json: AsJson = False) -> None:
    """Show a task: its specification and where it comes from, triggers, prompt version, sessions, state."""
    deployment = Deployment.of(context)
    known = deployment.task(task)
    spec, hub = known.spec, deployment.hub
    overview = _overview(deployment, known)
    with hub.database.reading() as connection:
        version = hub.prompts.current(connection, spec.key)
        sessions = hub.sessions.list(connection, name=spec.session.name or spec.path, limit=10)
        state = hub.state.read(connection, spec.key)
        recent = hub.executions.list(connection, application=spec.application, task=spec.name, limit=5)
    if as_json:
        render.document(
            {
                **_summary(overview),
                "spec": spec.canonical(),
                "spec_hash": spec.spec_hash,
                "prompt_version": version and version.version,
                "sessions": [render.record(session) for session in sessions],
                "state": state,
            }
        )
        return
    render.fields(
        {
            "task": spec.path,
            "intent": spec.intent,
            "agent": spec.agent,
            "comes from": known.found_in,
            "prompt comes from": known.prompt_in,
            "specification": spec.spec_hash[:12],
            "prompt version": "none yet" if version is None else f"{version.short}, by {version.actor}",
            "sessions": ", ".join(f"{session.name} with {session.agent} ({session.id})" for session in sessions),
            "state": render.indented(state) if state else None,
            "next due": render.instant(overview.next_due),
        }
    )
    render.heading("triggers")
    render.table(
        ("name", "due", "on", "next due"),
        [(trigger.name, trigger.words, _switch(trigger), render.instant(trigger.next_due)) for trigger in overview.triggers],
        empty="none: it is launched on demand",
    )
    for trigger in overview.triggers:
        for remark in trigger.remarks:
            render.text(f"{trigger.name}: {remark}")
    render.heading("last executions")
    render.table(
        ("id", "status", "begun", "took", "cost", "error"),
        [
            (
                render.short(execution.id),
                execution.status,
                render.instant(execution.created_at),
                render.seconds(execution.duration_seconds),
                render.cost(execution.cost_usd),
                execution.error_class,
            )
            for execution in recent
        ],
        empty="none",
    )
    declared = set(spec.model_fields_set) - {"prompt", "system"}
    parts = spec.canonical()
    texts = {name: parts.pop(name) for name in ("system", "prompt")}
    render.heading("specification")
    render.text(render.yaml({name: value for name, value in parts.items() if name in declared}))
    if defaults := {name: value for name, value in parts.items() if name not in declared}:
        render.heading("specification, by default")
        render.text(render.yaml(defaults))
    for name, words in texts.items():
        if words is not None:
            render.heading(name)
            render.text(words)


@app.command()
def run(
    context: typer.Context,
    task: Name,
    var: Annotated[list[str], typer.Option(help="Prompt variable, name=value; the value may be JSON.")] = [],  # noqa: B006
    logical_time: Annotated[
        str | None, typer.Option(help="Instant that the work is about: ISO 8601; now by default.", metavar="INSTANT")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code is 1 if it did not succeed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Launch a task now; prints the id of the Dagster run, and with --wait what became of it."""
    from agent_pipelines.components.job import job_name
    from agent_pipelines.engine.demand import TRIGGER, Demand

    deployment = Deployment.of(context)
    spec, hub, actor = deployment.task(task).spec, deployment.hub, deployment.actor
    demand = Demand(hub.database, hub.ticks, hub.clock)
    with deployment.launching() as gateway:
        run_id = demand.launch(
            gateway,
            spec.key,
            job_name(spec),
            actor=actor,
            logical_at=instant(logical_time, "--logical-time", hub.clock.now()),
            variables=variables(var),
            along=lambda connection, run_id: hub.audit.record(
                connection, actor=actor, action="task.run", object=spec.path, details={"run_id": run_id}
            ),
        )
        served = gateway.queue_is_served()
        if not as_json:
            render.text(run_id)
        if not served:
            render.note("queued, but nothing takes runs out of the queue: start `agent-pipelines up`")
        ended = gateway.wait(run_id) if wait and served else None
    told: dict[str, Any] = {"run_id": run_id, "dagster_status": ended}
    succeeded = True
    if wait:
        with hub.database.reading() as connection:
            tick = hub.ticks.find(connection, spec.key, TRIGGER, run_id)
            execution = hub.executions.get(connection, tick.execution_id) if tick and tick.execution_id else None
        words, succeeded = _outcome(tick, execution, ended)
        told |= {"verdict": tick and tick.verdict, "succeeded": succeeded, "execution": execution and render.record(execution)}
        if not as_json:
            render.text(words)
    if as_json:
        render.document(told)
    if not succeeded:
        raise typer.Exit(FAILURE)


def _outcome(tick: "Tick | None", execution: "StoredExecution | None", ended: str | None) -> tuple[str, bool]:
    match tick and tick.verdict:
        case Verdict.RAN if execution is not None:
            error = f": {execution.error_class}: {execution.error_message}" if execution.error_class else ""
            words = f"{execution.status}{error} (execution {execution.id})"
            return words, execution.status not in (Status.FAILED, Status.CANCELLED)
        case Verdict.SKIPPED | Verdict.DEDUPLICATED as verdict:
            return f"{verdict}: {tick and tick.reason}", True
        case None:
            return f"no verdict: the Dagster run {'is not over' if ended is None else f'ended {ended}'}", False
        case verdict:
            return f"{verdict}: {tick and tick.reason}", False


def _overview(deployment: Deployment, task: "KnownTask") -> "TaskOverview":
    from agent_pipelines.insight.tasks import overview

    hub = deployment.hub
    return overview(hub.database, hub.ledger, task, now=hub.clock.now(), switched=deployment.switched)


def _summary(overview: "TaskOverview") -> dict[str, Any]:
    last = overview.last
    return {
        "application": overview.task.spec.application,
        "task": overview.task.spec.name,
        "agent": overview.task.spec.agent,
        "intent": overview.task.spec.intent,
        "found_in": overview.task.found_in,
        "prompt_in": overview.task.prompt_in,
        "declared": overview.task.is_declared,
        "triggers": [
            {
                "name": trigger.name,
                "kind": trigger.kind,
                "words": trigger.words,
                "on": trigger.is_on,
                "next_due": None if trigger.next_due is None else isoformat(trigger.next_due),
                "remarks": list(trigger.remarks),
            }
            for trigger in overview.triggers
        ],
        "next_due": None if overview.next_due is None else isoformat(overview.next_due),
        "last_execution": None
        if last is None
        else {"id": last.id, "status": last.status, "created_at": isoformat(last.created_at)},
    }


def _switch(trigger: "KnownTrigger") -> str:
    return render.UNKNOWN if trigger.is_on is None else "yes" if trigger.is_on else "no"
