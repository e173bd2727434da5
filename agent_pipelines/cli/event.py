"""`agent-pipelines event`: what has happened outside and may make tasks due."""

import sys
from pathlib import Path

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit, json_object
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

app = typer.Typer(help="Events that make tasks due.", no_args_is_help=True)


@app.command()
def send(
    context: typer.Context,
    type: str = typer.Argument(help="Type of the event, as in commit.pushed."),
    data: str | None = typer.Option(None, help="Payload, a JSON object."),
    data_file: Path | None = typer.Option(None, help="File with the payload; - is standard input."),
    key: str | None = typer.Option(None, help="Your own name of the event: the same key from the same source is the same event."),
    source: str = typer.Option("cli", help="Who sends it."),
    as_json: AsJson = False,
) -> None:
    """Send an event; prints its id, and whether it is new."""
    if data is not None and data_file is not None:
        raise BadInput("--data and --data-file cannot go together; give one")
    deployment = Deployment.of(context)
    payload = json_object(_read(data_file), f"--data-file {data_file}") if data_file else json_object(data or "{}", "--data")
    hub = deployment.hub
    with hub.database.transaction() as connection:
        event_id, is_new = hub.inbox.put(connection, type, payload, source=source, key=key, actor=deployment.actor)
        if is_new:
            hub.audit.record(
                connection, actor=deployment.actor, action="event.send", object=type, details={"event_id": event_id, "key": key}
            )
    if as_json:
        render.document({"id": event_id, "new": is_new})
    else:
        render.text(f"{event_id} {'new' if is_new else 'known already'}")


@app.command("list")
def list_(
    context: typer.Context,
    type: str | None = typer.Option(None, help="Only events of this type."),
    source: str | None = typer.Option(None, help="Only events of this sender."),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the events that have arrived, newest first."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        page = hub.inbox.list(connection, type=type, source=source, before=before, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        render.document({"events": [render.record(event) for event in page], "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("seq", "id", "type", "source", "key", "received", "payload"),
        [
            (
                event.seq,
                event.id,
                event.type,
                event.source,
                event.key,
                render.instant(event.received_at),
                render.brief(event.payload),
            )
            for event in page
        ],
        empty="no events",
    )
    render.more(page, limit, last)


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--data-file {file}: {error}") from None
