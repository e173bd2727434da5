"""`agent-pipelines web`: the web server."""

import logging
import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

_WATCH = 5.0  # seconds between two looks at whether agents have nodes that live


def web(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any that is free.", min=0, max=65_535)] = 3000,
    workspace: Annotated[
        Path | None,
        typer.Option(help="Workspace file; by default the workspace.yaml or pyproject.toml of the project.", metavar="FILE"),
    ] = None,
) -> None:
    """Serve Dagster's web UI and the HTTP interface, until it is stopped.

    The interface is below /api/v1 and wants the token of the deployment, which is made at the first start.
    """
    from agent_pipelines.engine.exact_times import show_exact_times
    from agent_pipelines.engine.periodic import Periodic
    from agent_pipelines.engine.web_context import web_context
    from agent_pipelines.web.app import build_app
    from agent_pipelines.web.server import is_loopback, listen, serve
    from agent_pipelines.web.token import FILE_NAME, VARIABLE, ApiToken

    deployment = Deployment.of(context)
    file = _workspace(deployment, workspace)
    show_exact_times()
    home = Path(deployment.instance.root_directory)
    token = ApiToken.of_home(home, os.environ)
    logging.getLogger("dagster").setLevel(logging.WARNING)
    # The code servers of a pyproject.toml find its modules in the directory that they are started in.
    os.chdir(file.parent)
    with listen(host, port) as listening, web_context(deployment.instance, file) as served:
        app = build_app(served, deployment.hub, token)
        where = f"${VARIABLE}" if VARIABLE in os.environ else str(home / FILE_NAME)
        render.text(f"http://{host}:{listening.getsockname()[1]}, interface below /api/v1, its token in {where}")
        if not is_loopback(host):
            render.note(
                f"warning: whoever reaches {host} can use Dagster's pages, which ask for no token; put a log-in before them"
            )
        # Here, because this is the process that nodes speak to.
        stop = threading.Event()
        watching = Periodic("fleet", deployment.hub.fleet_watch.look, _WATCH, stop).start()
        try:
            serve(app, listening)
        finally:
            stop.set()
            watching.join(_WATCH)


def _workspace(deployment: Deployment, given: Path | None) -> Path:
    if given is not None:
        if not given.is_file():
            raise BadInput(f"--workspace {given}: there is no such file")
        return given.absolute()
    if deployment.project is None:
        raise BadInput("there is no project here; name its directory with --project, or a workspace file with --workspace")
    file = deployment.project / "workspace.yaml"
    return file if file.is_file() else deployment.project / "pyproject.toml"
