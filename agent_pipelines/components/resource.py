"""An agent as a Dagster resource."""

from typing import Any

import dagster as dg

from agent_pipelines.core.breaker import BreakerSpec
from agent_pipelines.runtimes import catalog
from agent_pipelines.runtimes.fleet import Agent, Node

_PREFIX = "agent_"


class AgentResource(dg.ConfigurableResource):
    """An agent that tasks and the user's own assets can use.

    `nodes` has the settings of each node by its name, `capacities` and `labels` those of the nodes that have any. They name
    environment variables, never secrets. Nothing is opened until the agent works.
    """

    agent: str
    runtime: str
    nodes: dict[str, dict[str, Any]]
    provider: str | None = None
    capacities: dict[str, int] = {}
    labels: dict[str, dict[str, str]] = {}
    breaker: dict[str, Any] = {}

    def create(self) -> Agent:
        """The agent, ready to work; its user closes it."""
        nodes = [
            Node(
                name,
                catalog.create(self.runtime, config),
                capacity=self.capacities.get(name),
                labels=self.labels.get(name),
            )
            for name, config in self.nodes.items()
        ]
        return Agent(self.agent, nodes, provider=self.provider, breaker=BreakerSpec.model_validate(self.breaker))


def resource_key(agent: str) -> str:
    """Under which key the resource of an agent stands."""
    return f"{_PREFIX}{agent}"


def agent_of_key(key: str) -> str | None:
    """The name of the agent that stands under a resource key; None for any other resource."""
    return key.removeprefix(_PREFIX) if key.startswith(_PREFIX) else None
