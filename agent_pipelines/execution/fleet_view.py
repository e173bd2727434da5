"""The nodes of an agent as a process sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.fleet.breakers import StoredBreaker
from agent_pipelines.fleet.nodes import StoredNode
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.store.database import Connection

_NAMED = 5  # nodes that a message names


@dataclass(frozen=True)
class SeenNode:
    """A node, how well it is, and how many attempts of other processes run on it."""

    stored: StoredNode
    breaker: StoredBreaker | None
    others: int
    placed: int
    """Attempts that other processes have placed on it so far."""

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.stored.name

    def is_well(self, now: Microseconds) -> bool:
        """Whether it is there and has not failed; one that is only to be tried again is not."""
        return self.stored.state(now) == "live" and (self.breaker is None or self.breaker.state == "closed")

    def obstacle(self, now: Microseconds) -> str | None:
        """Why it takes nothing just now, capacity aside; None if it does."""
        state = self.stored.state(now)
        if state == "silent":
            beat_at = self.stored.beat_at
            return "has not been heard of" if beat_at is None else f"is silent since {isoformat(beat_at)}"
        if state == "draining":
            return "is draining"
        breaker = self.breaker
        if breaker is None or breaker.state == "closed" or breaker.wants_probe(now):
            return None
        if breaker.state == "half_open":
            return f"is being tried again after {breaker.error_class}"
        until = "" if breaker.retry_at is None else f" and is tried again at {isoformat(breaker.retry_at)}"
        return f"has failed ({breaker.error_class}){until}"


@dataclass(frozen=True)
class FleetView:
    """The nodes of an agent at an instant; `is_out` says that an outage is noted."""

    at: Microseconds
    nodes: Sequence[SeenNode]
    is_out: bool

    def obstacles(self, now: Microseconds, labels: Mapping[str, str]) -> str:
        """In a line, why no node can take a task that asks for labels."""
        if not self.nodes:
            return "it has no node"
        named: list[str] = []
        for seen in self.nodes[:_NAMED]:
            missing = missing_label(seen.stored, labels)
            named.append(f"node {seen.name} {seen.obstacle(now) or missing or 'can take it'}")
        more = len(self.nodes) - _NAMED
        return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])


def missing_label(stored: StoredNode, labels: Mapping[str, str]) -> str | None:
    """What a node lacks of the labels that a task asks for, None if it has them all."""
    for name, value in labels.items():
        if stored.labels.get(name) != value:
            return f"lacks the label {name}={value}"
    return None


def look(
    connection: Connection, fleet: Fleet, agent: str, process: str, at: Microseconds, source: str, told: Mapping[str, int]
) -> FleetView:
    """Look at the nodes of an agent, those of a source only: a project's declaration, or their own registration.

    `told` is how many attempts this process has counted in the record, by node.
    """
    breakers = fleet.breakers.of(connection, agent)
    others = fleet.loads.others(connection, agent, process)
    seen = [
        SeenNode(stored, breakers.get(stored.name), others.get(stored.name, 0), stored.placed - told.get(stored.name, 0))
        for stored in fleet.nodes.of(connection, agent)
        if stored.source == source
    ]
    return FleetView(at, seen, agent in fleet.outages.lasting(connection))
