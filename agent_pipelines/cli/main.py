"""`agent-pipelines`, the command."""

from pathlib import Path
from typing import Annotated

import typer

from agent_pipelines.cli import (
    agent,
    audit,
    batch,
    cache,
    effect,
    event,
    execution,
    human,
    limit,
    node,
    prompt,
    registered,
    runtime,
    session,
    task,
    tick,
    trigger_history,
)
from agent_pipelines.cli.daemon import daemon
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.init import init
from agent_pipelines.cli.migrate import migrate
from agent_pipelines.cli.poller import poller
from agent_pipelines.cli.problems import Commands
from agent_pipelines.cli.status import status
from agent_pipelines.cli.up import up
from agent_pipelines.cli.web import web
from agent_pipelines.cli.worker import worker

app = typer.Typer(
    cls=Commands,
    name="agent-pipelines",
    help="Run AI agents unattended: on schedules and events, with a record of everything they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
task.app.add_typer(registered.app)
task.app.add_typer(trigger_history.app)
for group in (task, execution, batch, tick, agent, node, limit, effect, human, prompt, session, event, cache, audit, runtime):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
app.add_typer(tick.app, name="ticks", hidden=True)
app.command()(init)
app.command()(migrate)
app.command()(daemon)
app.command()(poller)
app.command()(web)
app.command()(worker)
app.command()(up)
app.command()(status)


@app.callback()
def begin(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Directory of the deployment, in place of DAGSTER_HOME.")] = None,
    project: Annotated[
        Path | None, typer.Option(help="Directory of the project that declares the tasks; by default the one you are in.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Remember what all commands work on."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("agent-pipelines"))
        raise typer.Exit
    context.obj = Deployment(home, project)


def main() -> None:
    """Run the command line."""
    app(prog_name="agent-pipelines")


if __name__ == "__main__":
    main()
