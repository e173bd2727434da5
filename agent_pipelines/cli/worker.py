"""`agent-pipelines worker`: a process that executes runs for other machines."""

from typing import Annotated

import typer

from agent_pipelines.cli.deployment import Deployment


def worker(
    context: typer.Context,
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue to serve, as often as there are; by default default_queue of dagster.yaml.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Runs at once.", min=1)] = 4,
    name: Annotated[str | None, typer.Option(help="What it is called in lists; by default host and process id.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Execute runs of some queues on this machine, until it is stopped; runs at hand are finished first.

    Needs `ClaimingCeleryRunLauncher` in dagster.yaml, and the code of the projects on this machine.
    """
    from agent_pipelines.core.errors import MissingExtraError

    try:
        from agent_pipelines.engine.celery.worker import Worker
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "celery", "celery", "`agent-pipelines worker`") from error

    Worker(Deployment.of(context).instance, queues=queue or [], concurrency=concurrency, name=name).run(log_level=log_level)
