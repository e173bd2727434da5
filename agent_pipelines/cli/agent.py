"""`agent-pipelines agent`: the agents, whether they are available, and what runs where."""

import typer

from agent_pipelines.cli import render
from agent_pipelines.cli.arguments import AsJson, Limit
from agent_pipelines.cli.deployment import Deployment
from agent_pipelines.cli.problems import unknown

app = typer.Typer(help="Agents, and what runs on their nodes.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the agents that have worked or have nodes, and whether each is available."""
    from agent_pipelines.execution.fleet_standing import agent_standings

    hub = Deployment.of(context).hub
    with hub.database.reading() as connection:
        found = agent_standings(connection, hub.fleet, hub.clock.now())
    if as_json:
        render.document({"agents": [render.record(each) for each in found]})
        return
    render.table(
        ("agent", "available", "live", "nodes", "running", "out since", "why"),
        [
            (
                each.agent,
                "yes" if each.is_available else "no",
                each.live,
                len(each.nodes),
                sum(node.running for node in each.nodes),
                render.instant(each.out_since_at),
                render.brief(each.reason or ""),
            )
            for each in found
        ],
        empty="no agent has worked or has nodes",
    )


@app.command()
def show(
    context: typer.Context,
    agent: str = typer.Argument(help="Name of the agent."),
    node: str | None = typer.Option(None, help="Only what runs on this node."),
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show an agent: its nodes, what runs on them, and what they did last."""
    from agent_pipelines.execution.fleet_standing import agent_standings

    hub = Deployment.of(context).hub
    attempts = hub.executions.attempts
    with hub.database.reading() as connection:
        found = agent_standings(connection, hub.fleet, hub.clock.now(), agent=agent)
        running = attempts.on(connection, agent, node=node, is_running=True, limit=limit)
        latest = attempts.on(connection, agent, node=node, is_running=False, limit=limit)
        if not found and not running and not latest:
            raise unknown("agent", agent, [each.agent for each in agent_standings(connection, hub.fleet, hub.clock.now())])
    if as_json:
        render.document(
            {
                "agent": render.record(found[0]) if found else None,
                "running": [render.record(each) for each in running],
                "latest": [render.record(each) for each in latest],
            }
        )
        return
    for each in found:
        render.table(
            ("node", "state", "breaker", "running", "capacity", "labels", "last beat", "takes nothing because it"),
            [
                (
                    of.name,
                    of.state,
                    of.breaker,
                    of.running,
                    of.capacity,
                    " ".join(f"{name}={value}" for name, value in of.labels.items()),
                    render.instant(of.beat_at),
                    of.reason,
                )
                for of in each.nodes
                if node is None or of.name == node
            ],
            empty=f"no node is named {node}",
        )
    for name, these in (("running", running), ("latest", latest)):
        render.heading(name)
        render.table(
            ("task", "execution", "attempt", "node", "status", "started", "error"),
            [
                (
                    f"{each.application}/{each.task}",
                    render.short(each.execution_id),
                    each.number,
                    each.node,
                    each.status,
                    render.instant(each.started_at),
                    each.error_class,
                )
                for each in these
            ],
            empty="nothing",
        )
