"""`agent-pipelines cache`: results that identical calls share."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Limit
from agent_pipelines.cli.deployment import Deployment

app = typer.Typer(help="Results that identical calls share.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    task: str | None = typer.Argument(None, help="Only results of this task, as in reports/daily_digest."),
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List results that are used again, newest first."""
    hub = Deployment.of(context).hub
    application, name = _place(task)
    with hub.database.reading() as connection:
        found = hub.ledger.results.list(connection, application=application, task=name, limit=limit)
    if as_json:
        render.document({"results": [render.record(each) for each in found]})
        return
    render.table(
        ("task", "execution", "kept", "expires", "hits"),
        [
            (each.path, each.execution_id, render.instant(each.kept_at), render.instant(each.expires_at), each.hits)
            for each in found
        ],
        empty="no results",
    )


@app.command()
def clear(
    context: typer.Context,
    task: str | None = typer.Argument(None, help="Only results of this task, as in reports/daily_digest."),
) -> None:
    """Give up results: the next call of each is made. The executions that have them stay in the record."""
    deployment = Deployment.of(context)
    hub = deployment.hub
    application, name = _place(task)
    with hub.database.transaction() as connection:
        count = hub.ledger.results.clear(connection, application=application, task=name)
        hub.audit.record(
            connection, actor=deployment.actor, action="cache.clear", object=task or "all tasks", details={"results": count}
        )
    typer.echo(f"{count} given up")


def _place(task: str | None) -> tuple[str | None, str | None]:
    if task is None:
        return None, None
    application, slash, name = task.partition("/")
    return (application, name) if slash else (None, application)
