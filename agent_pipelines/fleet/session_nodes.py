"""On which node of its agent a conversation is kept."""

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import node_sessions


class SessionNodes:
    """Writes and reads the nodes of conversations. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def get(self, connection: sa.Connection, spec: TaskSpec, agent: str) -> str | None:
        """The node that has the conversation of a task; None if there is none yet."""
        return connection.execute(sa.select(node_sessions.c.node).where(*_of(spec, agent))).scalar()

    def put(self, connection: sa.Connection, spec: TaskSpec, agent: str, node: str) -> None:
        """Note the node that has the conversation of a task."""
        now = self._clock.now()
        moved = node_sessions.update().where(*_of(spec, agent)).values(node=node, updated_at=now)
        if connection.execute(moved).rowcount == 0:
            insert_new(connection, node_sessions, {**_key(spec, agent), "node": node, "updated_at": now})


def _key(spec: TaskSpec, agent: str) -> dict[str, str]:
    name = spec.session.name or "" if spec.session.mode == "named" else spec.path
    return {"workspace": spec.workspace, "mode": spec.session.mode, "name": name, "agent": agent}


def _of(spec: TaskSpec, agent: str) -> list[sa.ColumnElement[bool]]:
    return [node_sessions.c[column] == value for column, value in _key(spec, agent).items()]
