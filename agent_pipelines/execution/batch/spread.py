"""Spreading the items of a process over the nodes of an agent."""

from collections import Counter

from agent_pipelines.execution.route import Router
from agent_pipelines.execution.work import Failure, Success, Work
from agent_pipelines.runtimes.fleet import Node, Place


class SpreadingRouter(Router):
    """Chooses the node that has the fewest attempts of this process; for a further attempt, not the one that has just failed."""

    def __init__(self) -> None:
        self._outstanding: Counter[Node] = Counter()
        self._held: dict[str, Node] = {}

    async def choose(self, work: Work) -> Place:
        """The node with the least to do."""
        nodes = work.agent.nodes
        if work.tries > 1 and len(nodes) > 1:
            failed = work.place.node
            nodes = tuple(node for node in nodes if node is not failed)
        node = min(nodes, key=self._outstanding.__getitem__)
        self._outstanding[node] += 1
        self._held[work.stored.id] = node
        return Place(work.agent, node)

    async def leave(self, work: Work, outcome: Success | Failure | None) -> None:
        """Count the attempt out."""
        node = self._held.pop(work.stored.id, None)
        if node is not None:
            self._outstanding[node] -= 1
