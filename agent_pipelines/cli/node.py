"""`agent-pipelines node`: the nodes of agents, and the process that works as one."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import BadInput

if TYPE_CHECKING:
    from agent_pipelines.fleet.nodes import StoredNode
    from agent_pipelines.hub import Hub
    from agent_pipelines.store.database import Connection

app = typer.Typer(help="Nodes of agents.", no_args_is_help=True)

AgentName = Annotated[str, typer.Argument(help="Name of the agent.")]
NodeName = Annotated[str, typer.Argument(help="Name of the node.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="name=value, as often as there are.", metavar="NAME=VALUE")]


@app.command("list")
def list_(
    context: typer.Context,
    agent: str | None = typer.Option(None, help="Only nodes of this agent."),
    as_json: AsJson = False,
) -> None:
    """List the nodes by agent and name."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        found = hub.fleet.nodes.list(connection, agent=agent)
    if as_json:
        render.document({"nodes": [_told(hub, each) for each in found]})
        return
    render.table(
        ("agent", "node", "state", "source", "capacity", "labels", "runtime", "last beat"),
        [
            (
                each.agent,
                each.name,
                each.state(hub.clock.now()),
                each.source,
                each.capacity,
                _words(each.labels),
                each.runtime,
                render.instant(each.beat_at),
            )
            for each in found
        ],
        empty="no nodes",
    )


@app.command()
def show(context: typer.Context, agent: AgentName, node: NodeName, as_json: AsJson = False) -> None:
    """Show one node."""
    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        found = hub.fleet.nodes.get(connection, agent, node)
    _show(hub, found, as_json)


@app.command()
def register(
    context: typer.Context,
    agent: AgentName,
    node: NodeName,
    capacity: Annotated[int | None, typer.Option(help="Requests at once.", min=1)] = None,
    label: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Let a node be known before its worker is there, or change its capacity and labels.

    For agents of runtime `node`; there is work for it when `agent-pipelines node run` has begun.
    """
    labels = None if label is None else _labels(label)
    _change(
        context,
        "node.register",
        agent,
        node,
        lambda hub, c: hub.fleet.nodes.register(
            c, agent, node, actor=Deployment.of(context).actor, capacity=capacity, labels=labels
        ),
        as_json,
    )


@app.command()
def drain(context: typer.Context, agent: AgentName, node: NodeName, as_json: AsJson = False) -> None:
    """Give a node nothing new; what it works on it finishes."""
    _change(context, "node.drain", agent, node, lambda hub, c: hub.fleet.nodes.drain(c, agent, node), as_json)


@app.command()
def resume(context: typer.Context, agent: AgentName, node: NodeName, as_json: AsJson = False) -> None:
    """Give a drained node work again."""
    _change(context, "node.resume", agent, node, lambda hub, c: hub.fleet.nodes.resume(c, agent, node), as_json)


@app.command()
def remove(context: typer.Context, agent: AgentName, node: NodeName, as_json: AsJson = False) -> None:
    """Forget a registered node."""

    def remove(hub: "Hub", connection: "Connection") -> "StoredNode":
        hub.fleet.breakers.forget(connection, agent, node)
        return hub.fleet.nodes.remove(connection, agent, node)

    _change(context, "node.remove", agent, node, remove, as_json)


@app.command()
def run(
    agent: Annotated[str, typer.Option(help="Name of the agent, which is declared with `runtime: node`.")],
    name: Annotated[str, typer.Option(help="Name of this node.")],
    url: Annotated[str, typer.Option(help="Address of the control plane, as in http://control-plane:3000.")],
    runtime: Annotated[str, typer.Option(help="Kind of runtime that does the work here.")],
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file with the settings of the runtime.")] = None,
    token_env: Annotated[
        str, typer.Option(help="Environment variable that holds the token of the deployment.")
    ] = "AGENT_PIPELINES_API_TOKEN",
    capacity: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 1,
    label: Labels = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Work as a node of an agent, until it is stopped: fetch work from the control plane and do it here.

    It only opens connections to the control plane, so it may be behind a NAT or a firewall. Asked to stop, it finishes what
    it has; asked twice, it stops at once.
    """
    from agent_pipelines.core.ids import new_id
    from agent_pipelines.engine.logs import log_to_stderr
    from agent_pipelines.runtimes import catalog
    from agent_pipelines.runtimes.base import secret_from_environment
    from agent_pipelines.runtimes.node_client import NodeClient
    from agent_pipelines.runtimes.node_worker import NodeWorker

    if runtime == "node":
        raise BadInput("--runtime node: a node cannot hand its work on; name the runtime that does it here")
    works = catalog.create(runtime, {} if config is None else _read(config))
    token = secret_from_environment(token_env)
    assert token is not None
    labels = _labels(label or [])
    log_to_stderr(log_level)

    async def work() -> None:
        client = NodeClient.to(url, token, agent=agent, node=name, worker=new_id())
        worker = NodeWorker(client, works, capacity=capacity, labels=labels)
        await _until_stopped(worker.run)

    asyncio.run(work())


async def _until_stopped(work: Callable[[asyncio.Event], Any]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    working = asyncio.ensure_future(work(stop))

    def ask() -> None:
        if stop.is_set():
            working.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        await working
    except asyncio.CancelledError:
        logging.getLogger("agent_pipelines.node").info("stopped at once")


def _change(
    context: typer.Context,
    action: str,
    agent: str,
    node: str,
    change: "Callable[[Hub, Connection], StoredNode]",
    as_json: bool,
) -> None:
    deployment = Deployment.of(context)
    hub = deployment.hub
    with hub.database.transaction() as connection:
        stored = change(hub, connection)
        hub.audit.record(connection, actor=deployment.actor, action=action, object=f"{agent}/{node}")
    _show(hub, stored, as_json)


def _show(hub: "Hub", node: "StoredNode", as_json: bool) -> None:
    if as_json:
        render.document({"node": _told(hub, node)})
        return
    told = _told(hub, node)
    render.fields({name: told[name] for name in told if name not in ("labels", "placed")} | {"labels": _words(node.labels)})


def _told(hub: "Hub", node: "StoredNode") -> dict[str, Any]:
    return dict(render.record(node, state=node.state(hub.clock.now())))


def _words(labels: "dict[str, str]") -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInput(f"--label {pair!r} is not name=value; write it as in --label zone=berlin")
        found[name] = value
    return found


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"--config {file}: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise BadInput(f"--config {file}: write the settings of the runtime as names and values")
    return value
