"""`agent-pipelines daemon`: the process that keeps the time."""

from pathlib import Path
from typing import Annotated

import typer

from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput


def daemon(
    context: typer.Context,
    workspace: Annotated[
        Path | None, typer.Option(help="Workspace file; by default the workspace.yaml of the project.", metavar="FILE")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Keep the time: claim what is due to the second, launch it, and run all of Dagster's daemons.

    On PostgreSQL any number may run: one leads, the others stand by. `agent-pipelines up` starts one.
    """
    from agent_pipelines.components.keeping import keeping_of
    from agent_pipelines.engine.daemon import run_daemon

    deployment = Deployment.of(context)
    file = workspace or (None if deployment.project is None else deployment.project / "workspace.yaml")
    if file is None or not file.is_file():
        raise BadInput(f"there is no workspace file{'' if file is None else f' {file}'}; name one with --workspace")
    run_daemon(deployment.instance, file, keeping_of(deployment.hub, deployment.instance), log_level=log_level)
