"""`agent-pipelines tick`: what was due, and what became of it."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import Application, AsJson, Before, Limit, Since, Task, Until, instant
from agent_pipelines.cli.deployment import Deployment

app = typer.Typer(help="What was due, and what became of it.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    application: Application = None,
    task: Task = None,
    trigger: str | None = typer.Option(None, help="Only the trigger of this name."),
    since: Since = None,
    until: Until = None,
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List ticks, newest first: when each was due, its verdict, and why."""
    deployment = Deployment.of(context)
    hub, now = deployment.hub, deployment.hub.clock.now()
    application, task = deployment.chosen(application, task)
    with hub.database.reading() as connection:
        page = hub.ticks.list(
            connection,
            application=application,
            task=task,
            trigger=trigger,
            due_from=instant(since, "--since", now),
            due_to=instant(until, "--until", now),
            before=before,
            limit=limit,
        )
    last = page[-1].seq if page else None
    if as_json:
        render.document({"ticks": [render.record(tick) for tick in page], "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("task", "trigger", "due", "verdict", "execution", "reason"),
        [
            (
                f"{tick.application}/{tick.task}",
                tick.trigger,
                render.instant(tick.due_at),
                tick.verdict or "open",
                render.short(tick.execution_id),
                tick.reason,
            )
            for tick in page
        ],
        empty="no ticks",
    )
    render.more(page, limit, last)
