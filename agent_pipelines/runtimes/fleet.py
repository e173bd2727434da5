"""Named agents and the nodes that they run on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent_pipelines.runtimes.base import Capabilities, Runtime


class Node:
    """One endpoint of an agent."""

    def __init__(self, name: str, runtime: Runtime[Any]) -> None:
        self.name = name
        self.runtime = runtime


class Agent:
    """A named agent: one or more nodes of one runtime."""

    def __init__(self, name: str, nodes: Sequence[Node], *, provider: str | None = None) -> None:
        if not nodes:
            raise ValueError(f"agent {name!r} has no node; declare at least one")
        self.name = name
        self.nodes = tuple(nodes)
        self.provider = provider or self.nodes[0].runtime.kind
        """Whose service the agent uses, for limits."""

    @property
    def capabilities(self) -> Capabilities:
        """What the runtime of this agent can do."""
        return self.nodes[0].runtime.capabilities

    def pick(self, attempt: int) -> Node:
        """The node for an attempt, counted from 1: each further attempt moves on to the next node."""
        return self.nodes[(attempt - 1) % len(self.nodes)]

    async def close(self) -> None:
        """Free what the nodes hold open."""
        for node in self.nodes:
            await node.runtime.close()


@dataclass(frozen=True)
class Place:
    """An agent and the node of it that an attempt is made on."""

    agent: Agent
    node: Node
