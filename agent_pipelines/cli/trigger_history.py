"""`agent-pipelines task history`: what became of the triggers of a task."""

from typing import TYPE_CHECKING, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.task import Name

if TYPE_CHECKING:
    from agent_pipelines.engine.trigger_history import HistoryEntry

app = typer.Typer()


@app.command()
def history(context: typer.Context, task: Name, before: Before = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List what became of a task's triggers, newest first: each edit, switch and pause, by whom and why."""
    from agent_pipelines.insight.triggers import describe

    deployment = Deployment.of(context)
    hub, key = deployment.hub, deployment.recorded_key(task)
    with hub.database.reading() as connection:
        page = hub.triggers.history.entries(connection, key, before=before, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        entries = [_record(entry, describe(entry.definition)) for entry in page]
        render.document({"history": entries, "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("seq", "from", "trigger", "due", "state", "by", "reason"),
        [
            (
                entry.seq,
                render.instant(entry.effective_at),
                entry.trigger,
                describe(entry.definition),
                entry.state,
                entry.actor,
                entry.reason,
            )
            for entry in page
        ],
        empty="no triggers were ever seen of this task",
    )
    render.more(page, limit, last)


def _record(entry: "HistoryEntry", words: str) -> dict[str, Any]:
    return render.record(entry, words=words)
