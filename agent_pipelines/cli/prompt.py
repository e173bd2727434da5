"""`agent-pipelines prompt`: versions of what agents are asked."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import JsonValue

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Before, Limit
from agent_pipelines.cli.deployment import Deployment

if TYPE_CHECKING:
    from agent_pipelines.context.prompts import PromptMove, PromptVersion
    from agent_pipelines.core.task import TaskKey

app = typer.Typer(help="Versions of what agents are asked.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The task: application/task, or a name that only one application has.")]
Channel = Annotated[
    Literal["stable", "canary", "holdback"], typer.Option(help="Channel; executions get what `stable` points at.")
]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@app.command()
def history(context: typer.Context, task: Name, before: Before = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the moves of a task's channels, newest first, and the versions that they point at."""
    deployment = Deployment.of(context)
    hub, key = deployment.hub, deployment.recorded_key(task)
    with hub.database.reading() as connection:
        moves = hub.prompts.history(connection, key, before=before, limit=limit)
    last = moves[-1].seq if moves else None
    if as_json:
        render.document({"moves": [render.record(move) for move in moves], "next_before": last if len(moves) == limit else None})
        return
    render.table(
        ("seq", "moved", "channel", "version", "from", "actor", "reason"),
        [
            (
                move.seq,
                render.instant(move.moved_at),
                move.channel,
                move.version.short,
                move.previous and move.previous[:12],
                move.actor,
                move.reason,
            )
            for move in moves
        ],
        empty="no versions: the first execution makes one",
    )
    render.more(moves, limit, last)


@app.command()
def show(
    context: typer.Context,
    task: Name,
    version: str | None = typer.Argument(None, help="Version or its first digits; the one of the channel by default."),
    channel: Channel = "stable",
    as_json: AsJson = False,
) -> None:
    """Show a version: system, prompt and parameters."""
    deployment = Deployment.of(context)
    hub, key = deployment.hub, deployment.recorded_key(task)
    with hub.database.reading() as connection:
        found = hub.prompts.get(connection, key, version) if version else hub.prompts.current(connection, key, channel)
    if as_json:
        render.document({"version": None if found is None else render.record(found)})
    elif found is None:
        render.note(f"{channel} of {_path(key)} points at no version yet")
    else:
        _show(found)


@app.command()
def diff(
    context: typer.Context,
    task: Name,
    old: str = typer.Argument(help="Version or its first digits."),
    new: str | None = typer.Argument(None, help="Version or its first digits; the stable one by default."),
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions."""
    from agent_pipelines.context.prompts import diff as difference

    deployment = Deployment.of(context)
    hub, key = deployment.hub, deployment.recorded_key(task)
    with hub.database.reading() as connection:
        left = hub.prompts.get(connection, key, old)
        right = hub.prompts.get(connection, key, new) if new else hub.prompts.current(connection, key) or left
    words = difference(left, right)
    if as_json:
        render.document({"old": left.version, "new": right.version, "diff": words})
    elif words:
        render.text(words)
    else:
        render.note("no difference")


@app.command()
def move(
    context: typer.Context,
    task: Name,
    version: str = typer.Argument(help="Version or its first digits."),
    channel: Channel = "stable",
    reason: Reason = "moved by hand",
    as_json: AsJson = False,
) -> None:
    """Point a channel at a version."""
    deployment = Deployment.of(context)
    hub, key, actor = deployment.hub, deployment.recorded_key(task), deployment.actor
    with hub.database.transaction() as connection:
        done = hub.prompts.move(connection, key, channel, version, actor=actor, reason=reason)
        hub.audit.record(connection, actor=actor, action="prompt.move", object=_path(key), details=_details(done))
    _tell(done, as_json)


@app.command()
def rollback(
    context: typer.Context,
    task: Name,
    channel: Channel = "stable",
    reason: Reason = "rolled back by hand",
    as_json: AsJson = False,
) -> None:
    """Point a channel at the version before the current one; repeated, it goes further back."""
    deployment = Deployment.of(context)
    hub, key, actor = deployment.hub, deployment.recorded_key(task), deployment.actor
    with hub.database.transaction() as connection:
        done = hub.prompts.rollback(connection, key, actor=actor, reason=reason, channel=channel)
        hub.audit.record(connection, actor=actor, action="prompt.rollback", object=_path(key), details=_details(done))
    _tell(done, as_json)


def _path(key: "TaskKey") -> str:
    return f"{key[1]}/{key[2]}"


def _details(done: "PromptMove") -> dict[str, JsonValue]:
    return {"channel": done.channel, "from": done.previous, "to": done.version.version, "reason": done.reason}


def _tell(done: "PromptMove", as_json: bool) -> None:
    if as_json:
        render.document({"move": render.record(done)})
    else:
        before = "nothing" if done.previous is None else done.previous[:12]
        render.text(f"{done.channel}: {before} -> {done.version.short}")


def _show(version: "PromptVersion") -> None:
    render.fields(
        {
            "version": version.version,
            "made by": version.actor,
            "made at": render.instant(version.created_at),
            "parameters": render.brief(version.parameters) if version.parameters else None,
        }
    )
    for name, words in (("system", version.system), ("prompt", version.prompt)):
        if words is not None:
            render.heading(name)
            render.text(words)
