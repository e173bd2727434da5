"""How agents stand: whether they are available, and what their nodes are at."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.execution.fleet_view import SeenNode
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.fleet.outages import Outage
from agent_pipelines.store.database import Connection


class NodeStanding(BaseModel):
    """A node with its state, the attempts that run on it, and the reason why it takes nothing, if it does not."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    state: str
    breaker: str
    running: int
    capacity: int | None
    labels: dict[str, str]
    runtime: str | None
    beat_at: Microseconds | None
    reason: str | None


class AgentStanding(BaseModel):
    """An agent. It is available if one of its nodes takes work; `out_since_at` is the beginning of a noted outage."""

    model_config = ConfigDict(frozen=True)

    agent: str
    is_available: bool
    live: int
    out_since_at: Microseconds | None
    reason: str | None
    nodes: tuple[NodeStanding, ...]


def agent_standings(
    connection: Connection, fleet: Fleet, now: Microseconds, *, agent: str | None = None
) -> Sequence[AgentStanding]:
    """All agents that have nodes, or one of them, by name."""
    breakers = {(each.agent, each.node): each for each in fleet.breakers.not_closed(connection)}
    running = fleet.loads.running(connection)
    outages = fleet.outages.lasting(connection)
    by_agent: dict[str, list[SeenNode]] = {}
    for node in fleet.nodes.list(connection, agent=agent):
        key = (node.agent, node.name)
        by_agent.setdefault(node.agent, []).append(SeenNode(node, breakers.get(key), running.get(key, 0), node.placed))
    return [_standing(name, nodes, outages.get(name), now) for name, nodes in by_agent.items()]


def fleet_problems(connection: Connection, fleet: Fleet) -> Sequence[str]:
    """The outages that last, as problems of the deployment."""
    return [
        f"agent {agent} is not available since {isoformat(outage.since_at)}: {outage.reason}; "
        f"`agent-pipelines agent show {agent}` tells more"
        for agent, outage in fleet.outages.lasting(connection).items()
    ]


def _standing(agent: str, nodes: Sequence[SeenNode], outage: Outage | None, now: Microseconds) -> AgentStanding:
    return AgentStanding(
        agent=agent,
        is_available=any(node.is_well(now) for node in nodes),
        live=sum(node.is_well(now) for node in nodes),
        out_since_at=None if outage is None else outage.since_at,
        reason=None if outage is None else outage.reason,
        nodes=tuple(
            NodeStanding(
                name=node.name,
                source=node.stored.source,
                state=node.stored.state(now),
                breaker="closed" if node.breaker is None else node.breaker.state,
                running=node.others,
                capacity=node.stored.capacity,
                labels=node.stored.labels,
                runtime=node.stored.runtime,
                beat_at=node.stored.beat_at,
                reason=node.obstacle(now),
            )
            for node in nodes
        ),
    )
