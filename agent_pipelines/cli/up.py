"""`agent-pipelines up`: the whole stack of a project, until it is stopped."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from agent_pipelines.engine.stack import Stack, StackError, prepare_home

_BACKOFF = (1, 2, 5, 10, 30)  # seconds before another start, by the number of quick deaths in a row
_STEADY = 60  # seconds after which a death counts as the first


def up(
    project: Annotated[Path, typer.Option(help="Directory of the project.")] = Path(),
    host: Annotated[str, typer.Option(help="Address that the web UI listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the web UI.")] = 3000,
) -> None:
    """Start web UI, daemon and code server of a project, and restart them if they die; Ctrl-C stops them.

    With `local_workers` of `ClaimingCeleryRunLauncher` in dagster.yaml also workers: runs at hand get twelve seconds to end.
    """
    project = project.resolve()
    configured = os.environ.get("DAGSTER_HOME")
    home = prepare_home(project, Path(configured) if configured else project / ".dagster_home")
    if configured and home != project / ".dagster_home":
        typer.echo(f"DAGSTER_HOME is {home}: settings are read from its dagster.yaml, a copy of the project's", err=True)
    stack = Stack(project, home, host=host, port=port)
    # A shell starts background jobs with SIGINT ignored; they are to be stopped by it all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _supervise(stack)
    except KeyboardInterrupt:
        typer.echo("stopping")
    finally:
        stack.stop()


def _supervise(stack: Stack) -> None:
    deaths = 0
    while True:
        started = time.monotonic()
        stack.start()
        try:
            stack.wait_until_ready()
            typer.echo(f"web UI on {stack.url}, records in {stack.home}, log in {stack.log_path}")
        except StackError as error:
            if stack.poll() is None:  # alive, but the definitions are broken: the UI shows it, and a mended file is picked up
                typer.echo(f"error: {error}", err=True)
            elif deaths == 0:
                raise
        while stack.poll() is None:
            time.sleep(0.5)
        deaths = 0 if time.monotonic() - started > _STEADY else deaths + 1
        wait = _BACKOFF[min(deaths, len(_BACKOFF) - 1)]
        typer.echo(f"Dagster ended with exit code {stack.poll()}; starting again in {wait} s; see {stack.log_path}", err=True)
        stack.stop()
        time.sleep(wait)
