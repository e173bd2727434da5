"""`agent-pipelines session`: conversations that executions belong to."""

from typing import Literal

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

app = typer.Typer(help="Conversations that executions belong to.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    mode: Literal["named", "task", "fresh"] | None = typer.Option(None, help="Only sessions of this mode."),
    name: str | None = typer.Option(None, help="Only the session of this name; of mode task it is application/task."),
    agent: str | None = typer.Option(None, help="Only sessions with this agent."),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List sessions, the one begun last first."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        page = hub.sessions.list(connection, mode=mode, name=name, agent=agent, before=before, limit=limit)
        turns = {session.id: hub.sessions.count(connection, session.id) for session in page}
    last = page[-1].seq if page else None
    if as_json:
        sessions = [render.record(session, turns=turns[session.id]) for session in page]
        render.document({"sessions": sessions, "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("seq", "id", "mode", "name", "agent", "turns", "updated"),
        [
            (
                session.seq,
                session.id,
                session.mode,
                session.name,
                session.agent,
                turns[session.id],
                render.instant(session.updated_at),
            )
            for session in page
        ],
        empty="no sessions",
    )
    render.more(page, limit, last)


@app.command()
def show(
    context: typer.Context,
    id: str = typer.Argument(help="Id of the session."),
    before: Before = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show a session and its newest turns, in the order in which they were said."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        session = hub.sessions.get(connection, id)
        if session is None:
            raise BadInput(f"there is no session {id!r}; `agent-pipelines session list` shows those that there are")
        count = hub.sessions.count(connection, id)
        page = hub.sessions.turns(connection, id, before=before, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        turns = [render.record(turn) for turn in page]
        render.document(
            {"session": render.record(session, turns=count), "turns": turns, "next_before": last if len(page) == limit else None}
        )
        return
    render.fields(
        {
            "id": session.id,
            "mode": session.mode,
            "name": session.name,
            "agent": session.agent,
            "runtime's own id": session.remote_id,
            "turns": count,
            "begun": render.instant(session.created_at),
            "updated": render.instant(session.updated_at),
        }
    )
    for turn in reversed(page):
        render.heading(f"execution {turn.execution_id}, {render.instant(turn.created_at)}")
        render.text(f"user: {turn.user}")
        render.text(f"assistant: {turn.assistant}")
    render.more(page, limit, last)
