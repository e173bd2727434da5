"""What nodes work on just now, as each process says it; and the permits that divide a node's capacity among processes."""

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import node_loads, nodes

STALE: Microseconds = 15_000_000
"""Microseconds after which what a process has said no longer counts."""


class Said(NamedTuple):
    """What a process says of a node: attempts that run there, all permits that it holds, and those that it gives back."""

    in_flight: int
    permits: int
    returned: int


class Loads:
    """Writes and reads the loads. All methods take part in the caller's transaction.

    A process that has been silent for STALE holds nothing any more.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def acquire(self, connection: sa.Connection, agent: str, node: str, process: str) -> bool:
        """Give a process one permit more. False if those of all processes reach the node's capacity."""
        # The lock lets one process at a time count.
        capacity = connection.execute(
            sa.select(nodes.c.capacity).where(nodes.c.agent == agent, nodes.c.name == node).with_for_update()
        ).scalar()
        if capacity is not None:
            given = sa.select(sa.func.coalesce(sa.func.sum(node_loads.c.permits), 0))
            if connection.execute(given.where(_of(agent, node), self._is_fresh())).scalar_one() >= capacity:
                return False
        now = self._clock.now()
        mine = node_loads.update().where(_of(agent, node), node_loads.c.process == process)
        if connection.execute(mine.values(permits=node_loads.c.permits + 1, beat_at=now)).rowcount == 0:
            row = {"agent": agent, "node": node, "process": process, "in_flight": 0, "permits": 1, "beat_at": now}
            insert_new(connection, node_loads, row)
        return True

    def say(self, connection: sa.Connection, agent: str, process: str, said: Mapping[str, Said]) -> None:
        """Note what a process works on, by node; what it neither works on nor holds is forgotten."""
        now = self._clock.now()
        for node, (in_flight, permits, returned) in sorted(said.items()):
            mine = sa.and_(_of(agent, node), node_loads.c.process == process)
            if not in_flight and not permits:
                connection.execute(sa.delete(node_loads).where(mine))
                continue
            # By what was given back, because permits may be on their way to this process.
            kept = node_loads.c.permits - returned
            values = {"in_flight": in_flight, "permits": sa.case((kept < 0, 0), else_=kept), "beat_at": now}
            if connection.execute(node_loads.update().where(mine).values(**values)).rowcount == 0:
                row = {"agent": agent, "node": node, "process": process, "in_flight": in_flight, "permits": permits}
                insert_new(connection, node_loads, {**row, "beat_at": now})
        connection.execute(sa.delete(node_loads).where(node_loads.c.agent == agent, node_loads.c.beat_at < now - STALE))

    def others(self, connection: sa.Connection, agent: str, process: str) -> Mapping[str, int]:
        """Attempts that run on the nodes of an agent, by node, but for those of a process."""
        query = sa.select(node_loads.c.node, sa.func.sum(node_loads.c.in_flight))
        query = query.where(node_loads.c.agent == agent, node_loads.c.process != process)
        rows = connection.execute(query.where(self._is_fresh()).group_by(node_loads.c.node)).all()
        return {node: int(count) for node, count in rows}

    def running(self, connection: sa.Connection) -> Mapping[tuple[str, str], int]:
        """Attempts that run on nodes, by agent and node."""
        query = sa.select(node_loads.c.agent, node_loads.c.node, sa.func.sum(node_loads.c.in_flight)).where(self._is_fresh())
        rows = connection.execute(query.group_by(node_loads.c.agent, node_loads.c.node)).all()
        return {(agent, node): int(count) for agent, node, count in rows}

    def _is_fresh(self) -> sa.ColumnElement[bool]:
        return node_loads.c.beat_at >= self._clock.now() - STALE


def _of(agent: str, node: str) -> sa.ColumnElement[bool]:
    return sa.and_(node_loads.c.agent == agent, node_loads.c.node == node)
