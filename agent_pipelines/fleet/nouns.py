"""The nouns of the fleet, together."""

from dataclasses import dataclass

from agent_pipelines.core.clock import Clock
from agent_pipelines.fleet.breakers import Breakers
from agent_pipelines.fleet.loads import Loads
from agent_pipelines.fleet.nodes import Nodes
from agent_pipelines.fleet.orders import WorkOrders
from agent_pipelines.fleet.outages import Outages
from agent_pipelines.fleet.session_nodes import SessionNodes


@dataclass(frozen=True)
class Fleet:
    """Nodes and all that is known of them. It has no methods: each noun has its own."""

    nodes: Nodes
    loads: Loads
    breakers: Breakers
    sessions: SessionNodes
    outages: Outages
    orders: WorkOrders

    @classmethod
    def of(cls, clock: Clock) -> "Fleet":
        """The nouns over one clock."""
        return cls(Nodes(clock), Loads(clock), Breakers(clock), SessionNodes(clock), Outages(clock), WorkOrders(clock))
