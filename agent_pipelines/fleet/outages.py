"""Times in which an agent was not available: none of its nodes could take anything."""

from collections.abc import Mapping

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import agent_outages


class Outage(BaseModel):
    """One outage of an agent; it lasts as long as `ended_at` is None."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    agent: str
    since_at: Microseconds
    reason: str
    ended_at: Microseconds | None


class Outages:
    """Writes and reads the outages. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(self, connection: sa.Connection, agent: str, reason: str) -> bool:
        """Note that an agent is not available. False if that was noted."""
        row = {"agent": agent, "since_at": self._clock.now(), "reason": reason}
        return insert_new(connection, agent_outages, row) is not None

    def end(self, connection: sa.Connection, agent: str) -> bool:
        """Note that an agent is available. False if it was not known to be otherwise."""
        lasting = agent_outages.update().where(agent_outages.c.agent == agent, agent_outages.c.ended_at.is_(None))
        return connection.execute(lasting.values(ended_at=self._clock.now())).rowcount > 0

    def lasting(self, connection: sa.Connection) -> Mapping[str, Outage]:
        """The outages that last, by agent."""
        query = sa.select(agent_outages).where(agent_outages.c.ended_at.is_(None)).order_by(agent_outages.c.seq)
        return {row["agent"]: Outage.model_validate(row) for row in connection.execute(query).mappings()}
