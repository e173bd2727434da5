"""`agent-pipelines audit`: who changed what."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit
from agent_pipelines.cli.deployment import Deployment

app = typer.Typer(help="Who changed what.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    object: str | None = typer.Option(None, help="Only changes of this object, as in reports/daily_digest."),
    actor: str | None = typer.Option(None, help="Only changes by this actor."),
    action: str | None = typer.Option(None, help="Only this action, as in prompt.rollback."),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List changes, newest first."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        page = hub.audit.list(connection, object=object, actor=actor, action=action, before=before, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        render.document(
            {"entries": [render.record(entry) for entry in page], "next_before": last if len(page) == limit else None}
        )
        return
    render.table(
        ("seq", "at", "actor", "action", "object", "details"),
        [
            (entry.seq, render.instant(entry.at), entry.actor, entry.action, entry.object, render.brief(entry.details))
            for entry in page
        ],
        empty="no changes",
    )
    render.more(page, limit, last)
