"""`agent-pipelines task`: what is declared or registered, and launching it."""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Limit, instant, variables
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import FAILURE
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Status, Verdict

if TYPE_CHECKING:
    from agent_pipelines.core.task import TaskKey
    from agent_pipelines.engine.tick import Tick
    from agent_pipelines.insight.tasks import KnownTask, KnownTrigger, TaskOverview
    from agent_pipelines.ledger.stored import StoredExecution

app = typer.Typer(help="Tasks: what is declared or registered, what happened last, what is due next.", no_args_is_help=True)

_POLL = 0.2  # seconds between two looks at a tick


class RegisteredState(StrEnum):
    """What a registered task can be."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PAUSED = "paused"
    REMOVED = "removed"


Name = Annotated[str, typer.Argument(help="The task: application/task, or a name that only one application has.")]


@app.command("list")
def list_(
    context: typer.Context,
    application: str | None = typer.Option(None, help="Only this application."),
    agent: str | None = typer.Option(None, help="Only tasks on this agent."),
    state: RegisteredState | None = typer.Option(None, help="Only registered tasks in this state."),
    text: str | None = typer.Option(None, help="Only tasks with these letters in their path."),
    after: str | None = typer.Option(None, help="The page of registered tasks after this one.", metavar="PATH"),
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the tasks that the project declares, those that only the record knows, and a page of the registered ones.

    Next due is the first instant at which a trigger of time that is switched on is due.
    """
    deployment = Deployment.of(context)
    hub = deployment.hub

    def is_asked_for(task: "KnownTask") -> bool:
        spec = task.spec
        return application in (None, spec.application) and agent in (None, spec.agent) and (text is None or text in spec.path)

    tasks = [task for task in deployment.tasks if is_asked_for(task)] if state is None and after is None else []
    with hub.database.reading() as connection:
        page = hub.registered.list(
            connection,
            application=application,
            agent=agent,
            state=None if state is None else state.value,
            text=text,
            after=after,
            limit=limit,
        )
    further = page[-1].path if len(page) == limit else None
    found = [_overview(deployment, task) for task in [*tasks, *deployment.registered(page)]]
    if as_json:
        render.document({"tasks": [_summary(overview) for overview in found], "next_after": further})
        return
    render.table(
        ("task", "triggers", "agent", "last status", "last begun", "next due", "declared"),
        [
            (
                overview.task.spec.path,
                ", ".join(trigger.words + _note(trigger) for trigger in overview.triggers) or "on demand",
                overview.task.spec.agent,
                overview.last and overview.last.status,
                overview.last and render.instant(overview.last.created_at),
                render.instant(overview.next_due),
                _declared(deployment, overview.task),
            )
            for overview in found
        ],
        empty="no tasks",
    )
    if further is not None:
        render.note(f"further ones: --after {further}")
    if deployment.project is None:
        render.note(
            "there is no project here, so these are the tasks that have run or are registered; name the project with --project"
        )


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
            "switched": known.state if known.reason is None else f"{known.state}: {known.reason}",
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
    """Launch a task now; with --wait tells what became of it.

    Prints the id of the Dagster run, for a registered task that of its tick, which a burst takes.
    """
    deployment = Deployment.of(context)
    known, hub = deployment.task(task), deployment.hub
    asked = Asked(variables(var), instant(logical_time, "--logical-time", hub.clock.now()), wait=wait, as_json=as_json)
    told = _run_registered(deployment, known, asked) if known.version is not None else _launch(deployment, known, asked)
    if as_json:
        render.document(told)
    if wait and not told["succeeded"]:
        raise typer.Exit(FAILURE)


@dataclass(frozen=True)
class Asked:
    """What a launch is asked for."""

    variables: dict[str, Any]
    logical_at: int | None
    wait: bool
    as_json: bool


def _launch(deployment: Deployment, known: "KnownTask", asked: Asked) -> dict[str, Any]:
    from agent_pipelines.components.job import job_name
    from agent_pipelines.engine.demand import TRIGGER, Demand

    spec, hub, actor = known.spec, deployment.hub, deployment.actor
    demand = Demand(hub.database, hub.ticks, hub.clock)
    with deployment.launching() as gateway:
        run_id = demand.launch(
            gateway,
            spec.key,
            job_name(spec),
            actor=actor,
            logical_at=asked.logical_at,
            variables=asked.variables,
            along=lambda connection, run_id: hub.audit.record(
                connection, actor=actor, action="task.run", object=spec.path, details={"run_id": run_id}
            ),
        )
        served = gateway.queue_is_served()
        if not asked.as_json:
            render.text(run_id)
        if not served:
            render.note("queued, but nothing takes runs out of the queue: start `agent-pipelines up`")
        ended = gateway.wait(run_id) if asked.wait and served else None
    told = {"run_id": run_id, "dagster_status": ended}
    still = f"the Dagster run {'is not over' if ended is None else f'ended {ended}'}"
    return told | (_what_became(deployment, spec.key, TRIGGER, run_id, still, asked) if asked.wait else {})


def _run_registered(deployment: Deployment, known: "KnownTask", asked: Asked) -> dict[str, Any]:
    hub, spec = deployment.hub, known.spec
    tick = hub.registry.run_now(spec.key, actor=deployment.actor, variables=asked.variables, logical_at=asked.logical_at)
    if not asked.as_json:
        render.text(tick.id)
    keeps_time = deployment.keeps_time()
    if not keeps_time:
        render.note("waiting, but no daemon starts bursts: start `agent-pipelines up`")
    told: dict[str, Any] = {"tick_id": tick.id}
    if not asked.wait:
        return told
    while keeps_time and not _is_final(deployment, tick):
        time.sleep(_POLL)
    return told | _what_became(deployment, spec.key, tick.trigger, tick.occurrence, "no burst has taken the tick", asked)


def _is_final(deployment: Deployment, tick: "Tick") -> bool:
    hub = deployment.hub
    with hub.database.reading() as connection:
        now = hub.ticks.find(connection, tick.task_key, tick.trigger, tick.occurrence)
        if now is None or now.verdict is None:
            return now is None
        execution = hub.executions.get(connection, now.execution_id) if now.execution_id else None
    return execution is None or execution.status not in (Status.RUNNING, Status.WAITING)


def _what_became(
    deployment: Deployment, task: "TaskKey", trigger: str, occurrence: str, still: str, asked: Asked
) -> dict[str, Any]:
    hub = deployment.hub
    with hub.database.reading() as connection:
        tick = hub.ticks.find(connection, task, trigger, occurrence)
        execution = hub.executions.get(connection, tick.execution_id) if tick and tick.execution_id else None
    words, succeeded = _outcome(tick, execution, still)
    if not asked.as_json:
        render.text(words)
    return {
        "run_id": tick and tick.run_id,
        "verdict": tick and tick.verdict,
        "succeeded": succeeded,
        "execution": execution and render.record(execution),
    }


def _outcome(tick: "Tick | None", execution: "StoredExecution | None", still: str) -> tuple[str, bool]:
    match tick and tick.verdict:
        case Verdict.RAN if execution is not None:
            error = f": {execution.error_class}: {execution.error_message}" if execution.error_class else ""
            words = f"{execution.status}{error} (execution {execution.id})"
            return words, execution.status not in (Status.FAILED, Status.CANCELLED)
        case Verdict.SKIPPED | Verdict.DEDUPLICATED as verdict:
            return f"{verdict}: {tick and tick.reason}", True
        case None:
            return f"no verdict: {still}", False
        case verdict:
            return f"{verdict}: {tick and tick.reason}", False


def _overview(deployment: Deployment, task: "KnownTask") -> "TaskOverview":
    from agent_pipelines.insight.tasks import overview

    hub = deployment.hub
    return overview(hub.database, hub.ledger, hub.triggers, task, now=hub.clock.now(), switched=deployment.switched)


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
        "registered": None
        if overview.task.version is None
        else {"version": overview.task.version, "state": overview.task.state, "reason": overview.task.reason},
        "triggers": [
            {
                "name": trigger.name,
                "kind": trigger.kind,
                "words": trigger.words,
                "on": trigger.is_on,
                "paused": trigger.paused,
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
    if trigger.paused is not None:
        return f"paused: {trigger.paused}"
    return render.UNKNOWN if trigger.is_on is None else "yes" if trigger.is_on else "no"


def _note(trigger: "KnownTrigger") -> str:
    return " (paused)" if trigger.paused is not None else " (off)" if trigger.is_on is False else ""


def _declared(deployment: Deployment, task: "KnownTask") -> str:
    if task.version is not None:
        return f"registered, version {task.version}" + ("" if task.state == "enabled" else f", {task.state}")
    return "yes" if task.is_declared else "no" if deployment.project else render.UNKNOWN
