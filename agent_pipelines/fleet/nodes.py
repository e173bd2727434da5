"""The nodes of agents: declared by a project, or registered while it runs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import nodes

SILENT: Microseconds = 15_000_000
"""Microseconds after its last beat at which a registered node no longer counts as alive."""

NodeState = Literal["live", "draining", "silent"]


class UnknownNode(AgentPipelinesError):
    """There is no such node."""


class NodeInUse(AgentPipelinesError):
    """Another worker has registered as this node since."""


class StoredNode(BaseModel):
    """A node as it is known. `capacity` is requests at once, None without a limit.

    A declared node is an endpoint and sends no beats; a registered one is a worker that fetches its work.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: str
    name: str
    source: Literal["declared", "registered"]
    capacity: int | None
    labels: dict[str, str]
    registered_at: Microseconds
    actor: str
    draining_at: Microseconds | None
    worker: str | None
    runtime: str | None
    beat_at: Microseconds | None
    placed: int
    """Attempts that were placed here, to share equally among nodes that have as much to do."""

    def state(self, now: Microseconds) -> NodeState:
        """Whether it is there for new work."""
        if self.source == "registered" and (self.beat_at is None or abs(now - self.beat_at) > SILENT):
            return "silent"
        return "live" if self.draining_at is None else "draining"


class Nodes:
    """Writes and reads the nodes. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def declare(
        self, connection: sa.Connection, agent: str, declared: Mapping[str, tuple[int | None, Mapping[str, str]]]
    ) -> None:
        """Note which nodes a project declares for an agent, by name with capacity and labels; others are declared no more."""
        gone = sa.delete(nodes).where(nodes.c.agent == agent, nodes.c.source == "declared", nodes.c.name.not_in(list(declared)))
        connection.execute(gone)
        for name, (capacity, labels) in declared.items():
            values: dict[str, Any] = {"capacity": capacity, "labels": dict(labels)}
            self._put(connection, agent, name, {**values, "source": "declared", "actor": "project"}, values)

    def register(
        self,
        connection: sa.Connection,
        agent: str,
        name: str,
        *,
        actor: str,
        capacity: int | None = None,
        labels: Mapping[str, str] | None = None,
        worker: str | None = None,
        runtime: str | None = None,
    ) -> StoredNode:
        """Note a node that fetches its work. With `worker` it is there from now on, and is the only one that speaks for the node.

        Raises NodeInUse if a project declares a node of this name.
        """
        values: dict[str, Any] = {"actor": actor}
        given = {"capacity": capacity, "labels": None if labels is None else dict(labels), "runtime": runtime, "worker": worker}
        values |= {column: value for column, value in given.items() if value is not None}
        if worker is not None:
            values["beat_at"] = self._clock.now()
        self._put(connection, agent, name, {"labels": {}, **values, "source": "registered"}, values)
        stored = self.get(connection, agent, name)
        if stored.source == "declared":
            raise NodeInUse(f"the project declares a node {name!r} of agent {agent!r}; choose another name")
        return stored

    def beat(self, connection: sa.Connection, agent: str, name: str, worker: str) -> StoredNode:
        """Note that a worker lives. Raises UnknownNode if its node was removed, NodeInUse if another one has taken its place."""
        living = nodes.update().where(nodes.c.agent == agent, nodes.c.name == name, nodes.c.worker == worker)
        row = connection.execute(living.values(beat_at=self._clock.now()).returning(*nodes.c)).mappings().one_or_none()
        if row is not None:
            return StoredNode.model_validate(row)
        self.get(connection, agent, name)
        raise NodeInUse(f"another worker has registered as node {name!r} of agent {agent!r} since; this one has no say any more")

    def leave(self, connection: sa.Connection, agent: str, name: str, worker: str) -> None:
        """Note that a worker has ended."""
        left = nodes.update().where(nodes.c.agent == agent, nodes.c.name == name, nodes.c.worker == worker)
        connection.execute(left.values(beat_at=None, worker=None))

    def drain(self, connection: sa.Connection, agent: str, name: str) -> StoredNode:
        """Give a node nothing new; what it works on it finishes. Raises UnknownNode."""
        at = sa.func.coalesce(nodes.c.draining_at, self._clock.now())
        return self._change(connection, agent, name, draining_at=at)

    def resume(self, connection: sa.Connection, agent: str, name: str) -> StoredNode:
        """Give a drained node work again. Raises UnknownNode."""
        return self._change(connection, agent, name, draining_at=None)

    def remove(self, connection: sa.Connection, agent: str, name: str) -> StoredNode:
        """Forget a registered node. Raises UnknownNode, and NodeInUse for one that a project declares."""
        stored = self.get(connection, agent, name)
        if stored.source == "declared":
            raise NodeInUse(f"the project declares node {name!r} of agent {agent!r}: drain it, or take it out of the declaration")
        connection.execute(sa.delete(nodes).where(nodes.c.agent == agent, nodes.c.name == name))
        return stored

    def count_placed(self, connection: sa.Connection, agent: str, placed: Mapping[str, int]) -> None:
        """Note how many attempts more were placed on nodes."""
        for name, count in sorted(placed.items()):
            of = nodes.update().where(nodes.c.agent == agent, nodes.c.name == name)
            connection.execute(of.values(placed=nodes.c.placed + count))

    def get(self, connection: sa.Connection, agent: str, name: str) -> StoredNode:
        """A node. Raises UnknownNode."""
        query = sa.select(nodes).where(nodes.c.agent == agent, nodes.c.name == name)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownNode(f"agent {agent!r} has no node {name!r}")
        return StoredNode.model_validate(row)

    def of(self, connection: sa.Connection, agent: str) -> Sequence[StoredNode]:
        """All nodes of an agent, by name."""
        return self.list(connection, agent=agent)

    def list(
        self, connection: sa.Connection, *, agent: str | None = None, after: tuple[str, str] | None = None, limit: int = 100_000
    ) -> Sequence[StoredNode]:
        """Nodes by agent and name, a page at a time: `after` is agent and name of the last one of the page before."""
        query = sa.select(nodes).where(*equal({nodes.c.agent: agent}))
        if after is not None:
            query = query.where(sa.tuple_(nodes.c.agent, nodes.c.name) > sa.tuple_(*map(sa.literal, after)))
        rows = connection.execute(query.order_by(nodes.c.agent, nodes.c.name).limit(limit)).mappings()
        return [StoredNode.model_validate(row) for row in rows]

    def _put(self, connection: sa.Connection, agent: str, name: str, new: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
        # A new one begins where the others are: it must not get everything until it has caught up.
        most = sa.select(sa.func.coalesce(sa.func.max(nodes.c.placed), 0)).where(nodes.c.agent == agent)
        row = {"agent": agent, "name": name, "registered_at": self._clock.now(), **new}
        if insert_new(connection, nodes, {**row, "placed": connection.execute(most).scalar_one()}) is None:
            same_source = nodes.update().where(nodes.c.agent == agent, nodes.c.name == name, nodes.c.source == new["source"])
            connection.execute(same_source.values(**changed))

    def _change(self, connection: sa.Connection, agent: str, name: str, **values: Any) -> StoredNode:
        changed = nodes.update().where(nodes.c.agent == agent, nodes.c.name == name).values(**values).returning(*nodes.c)
        row = connection.execute(changed).mappings().one_or_none()
        if row is None:
            raise UnknownNode(f"agent {agent!r} has no node {name!r}")
        return StoredNode.model_validate(row)
