"""What is told when nodes and agents fail or come back."""

from dataclasses import dataclass

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.task import TaskKey
from agent_pipelines.execution.fleet_standing import agent_standings
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.ledger.outbox import Outbox
from agent_pipelines.store.database import Connection, Database


@dataclass(frozen=True)
class FleetAlerts:
    """Leaves changes of the fleet in the outbox, each once, in the transaction that made them true."""

    fleet: Fleet
    outbox: Outbox

    def node(
        self, connection: Connection, agent: str, node: str, change: str, *, error_class: str | None = None, reason: str = ""
    ) -> None:
        """Tell that the breaker of a node was opened or closed: `node.opened`, `node.closed`."""
        body = {"agent": agent, "node": node, "error_class": error_class, "reason": reason}
        self.outbox.put(connection, _key(agent), f"node.{change}", body)

    def agent(self, connection: Connection, agent: str, reason: str | None) -> None:
        """Tell that an agent is not available any more, for a reason, or that it is again: once for each outage."""
        if reason is not None:
            if self.fleet.outages.begin(connection, agent, reason):
                self.outbox.put(connection, _key(agent), "agent.unavailable", {"agent": agent, "reason": reason})
        elif self.fleet.outages.end(connection, agent):
            self.outbox.put(connection, _key(agent), "agent.available", {"agent": agent})


@dataclass(frozen=True)
class FleetWatch:
    """Notices that all nodes of an agent have fallen silent or are drained, also while no task asks for it."""

    database: Database
    clock: Clock
    fleet: Fleet
    alerts: FleetAlerts

    def look(self) -> None:
        """Compare what is noted with how the nodes stand; agents without nodes are left out."""
        with self.database.reading() as connection:
            agents = agent_standings(connection, self.fleet, self.clock.now())
        changed: dict[str, str | None] = {}
        for each in agents:
            if each.is_available and each.out_since_at is not None:
                changed[each.agent] = None
            elif not each.is_available and each.out_since_at is None:
                states = [node.state if node.breaker == "closed" else "failing" for node in each.nodes]
                counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
                changed[each.agent] = f"none of its {len(states)} nodes is available: {counts}"
        if changed:
            with self.database.transaction() as connection:
                for agent, reason in sorted(changed.items()):
                    self.alerts.agent(connection, agent, reason)


def _key(agent: str) -> TaskKey:
    # Not of a task: the application is one that no project may use.
    return ("default", "agent_pipelines", agent)
