"""`agent-pipelines poller`: the process that looks after executions that wait."""

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.deployment import Deployment

if TYPE_CHECKING:
    from agent_pipelines.execution.poller import Poller


def poller(context: typer.Context) -> None:
    """Look after the executions that wait for remote agents or people, until it is stopped.

    It knows the agents that the project declares when it starts. Any number may run. `agent-pipelines up` starts one.
    """
    from agent_pipelines.definitions import declared_agents
    from agent_pipelines.engine.logs import log_to_stderr

    deployment = Deployment.of(context)
    log_to_stderr()
    agents = {} if deployment.project is None else declared_agents(deployment.project)
    render.note(f"looking after executions that wait for people, and for {', '.join(sorted(agents)) or 'no agent'}")
    asyncio.run(_until_stopped(deployment.hub.poller(agents)))


async def _until_stopped(poller: "Poller") -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(poller.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
