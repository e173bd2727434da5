"""An agent as a Dagster resource."""

from typing import Any

import dagster as dg

from agent_pipelines.runtimes import catalog
from agent_pipelines.runtimes.fleet import Agent, Node

_PREFIX = "agent_"


class AgentResource(dg.ConfigurableResource):
    """An agent that tasks and the user's own assets can use.

    `nodes` has the settings of each node by its name. They name environment variables, never secrets. Nothing is opened
    until the agent works.
    """

    agent: str
    runtime: str
    nodes: dict[str, dict[str, Any]]
    provider: str | None = None

    def create(self) -> Agent:
        """The agent, ready to work; its user closes it."""
        nodes = [Node(name, catalog.create(self.runtime, config)) for name, config in self.nodes.items()]
        return Agent(self.agent, nodes, provider=self.provider)


def resource_key(agent: str) -> str:
    """Under which key the resource of an agent stands."""
    return f"{_PREFIX}{agent}"


def agent_of_key(key: str) -> str | None:
    """The name of the agent that stands under a resource key; None for any other resource."""
    return key.removeprefix(_PREFIX) if key.startswith(_PREFIX) else None
