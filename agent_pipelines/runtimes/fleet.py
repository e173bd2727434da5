"""Named agents and the nodes that they run on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_pipelines.core.breaker import BreakerSpec
from agent_pipelines.runtimes.base import Capabilities, Runtime


class Node:
    """One endpoint of an agent. `capacity` is requests at once, None without a limit."""

    def __init__(
        self, name: str, runtime: Runtime[Any], *, capacity: int | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.runtime = runtime
        self.capacity = capacity
        self.labels = dict(labels or {})


class Agent:
    """A named agent: one or more nodes of one runtime."""

    def __init__(
        self, name: str, nodes: Sequence[Node], *, provider: str | None = None, breaker: BreakerSpec | None = None
    ) -> None:
        if not nodes:
            raise ValueError(f"agent {name!r} has no node; declare at least one")
        self.name = name
        self.nodes = tuple(nodes)
        self.provider = provider or self.nodes[0].runtime.kind
        """Whose service the agent uses, for limits."""
        self.breaker = breaker or BreakerSpec()

    @property
    def capabilities(self) -> Capabilities:
        """What the runtime of this agent can do."""
        return self.nodes[0].runtime.capabilities

    async def close(self) -> None:
        """Free what the nodes hold open."""
        for node in self.nodes:
            await node.runtime.close()


@dataclass(frozen=True)
class Place:
    """An agent and the node of it that an attempt is made on."""

    agent: Agent
    node: Node
