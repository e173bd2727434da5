"""`agent-pipelines effect`: what executions have done to the world."""

from typing import TYPE_CHECKING

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput
from agent_pipelines.core.effect import EffectStatus

if TYPE_CHECKING:
    from agent_pipelines.ledger.effects import Effect

app = typer.Typer(help="What executions have done to the world.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    status: EffectStatus | None = typer.Option(None, help="Only effects of which this is known."),
    execution: str | None = typer.Option(None, help="Only effects of this execution.", metavar="ID"),
    before: Before = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List effects, newest first."""
    deployment = Deployment.of(context)
    with deployment.hub.database.reading() as connection:
        page = deployment.hub.ledger.effects.list(connection, status=status, execution_id=execution, before=before, limit=limit)
    last = page[-1].seq if page else None
    if as_json:
        render.document({"effects": [render.record(each) for each in page], "next_before": last if len(page) == limit else None})
        return
    render.table(
        ("id", "effect", "task", "status", "tries", "intended", "settled by", "error"),
        [
            (
                render.short(each.id),
                each.name,
                each.path,
                each.status,
                each.tries,
                render.instant(each.intended_at),
                each.settled_by,
                render.brief(each.error or ""),
            )
            for each in page
        ],
        empty="no effects",
    )
    render.more(page, limit, last)


@app.command()
def show(context: typer.Context, id: str = typer.Argument(help="Id, or its first digits."), as_json: AsJson = False) -> None:
    """Show an effect: what was asked for, what came back, and who is asked where nobody knows."""
    deployment = Deployment.of(context)
    effect = _find(deployment, id)
    with deployment.hub.database.reading() as connection:
        asked = deployment.hub.human_tasks.of_subject(connection, "effect", effect.id, workspace=effect.workspace)
    if as_json:
        render.document({"effect": render.record(effect), "human_task": None if asked is None else render.record(asked)})
        return
    render.fields(
        {
            "id": effect.id,
            "effect": effect.name,
            "key": effect.key,
            "task": effect.path,
            "execution": effect.execution_id,
            "run": effect.run_id,
            "status": effect.status,
            "tries": effect.tries,
            "intended": render.instant(effect.intended_at),
            "ended": None if effect.ended_at is None else render.instant(effect.ended_at),
            "settled by": effect.settled_by,
            "error": effect.error,
            "human task": None if asked is None else f"{asked.id} ({asked.answer or 'open'})",
        }
    )
    for title, value in (("request", effect.request), ("receipt", effect.receipt)):
        if value is not None:
            render.heading(title)
            render.text(render.indented(value))


def _find(deployment: Deployment, prefix: str) -> "Effect":
    with deployment.hub.database.reading() as connection:
        found = deployment.hub.ledger.effects.find(connection, prefix)
    if not found:
        raise BadInput(f"no effect's id begins with {prefix!r}; `agent-pipelines effect list` shows those that there are")
    if len(found) > 1:
        raise BadInput(f"several effects' ids begin with {prefix!r}: {', '.join(each.id for each in found)}, ...")
    return found[0]
