"""The circuit breakers of nodes, which all processes share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.breaker import BreakerSpec
from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import node_breakers

Change = Literal["opened", "closed"]

_CLEAN: dict[str, Any] = {
    "state": "closed",
    "failures": 0,
    "failing_since": None,
    "openings": 0,
    "opened_at": None,
    "retry_at": None,
    "probe": None,
    "probe_until": None,
}


class StoredBreaker(BaseModel):
    """A breaker. An open one lets nothing through before `retry_at`; a half-open one only the attempt of `probe`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: str
    node: str
    state: Literal["closed", "open", "half_open"]
    failures: int
    failing_since: Microseconds | None
    openings: int
    opened_at: Microseconds | None
    retry_at: Microseconds | None
    probe: str | None
    probe_until: Microseconds | None
    error_class: str | None
    reason: str | None
    changed_at: Microseconds

    def wants_probe(self, now: Microseconds) -> bool:
        """Whether one attempt may try the node."""
        if self.state == "open":
            return self.retry_at is not None and now >= self.retry_at
        return self.state == "half_open" and self.probe_until is not None and now >= self.probe_until


class Breakers:
    """Writes and reads the breakers. All methods take part in the caller's transaction.

    A node without a row has never failed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def fail(
        self,
        connection: sa.Connection,
        agent: str,
        node: str,
        spec: BreakerSpec,
        *,
        error_class: str,
        reason: str,
        probe: str | None = None,
    ) -> Change | None:
        """Count a failure; returns whether that opened a closed breaker. `probe` is the attempt that tried the node."""
        now = self._clock.now()
        row = {"agent": agent, "node": node, "state": "closed", "failures": 0, "changed_at": now}
        insert_new(connection, node_breakers, row)
        stored = self._locked(connection, agent, node)
        values: dict[str, Any] = {"error_class": error_class, "reason": reason, "changed_at": now}
        if stored.state == "half_open" and stored.probe == probe:
            return self._open(connection, stored, spec, values)
        if stored.state != "closed":
            return None  # of an attempt that began before it was opened
        counts = stored.failing_since is not None and now - stored.failing_since <= round(spec.window * 1_000_000)
        values |= {"failures": stored.failures + 1 if counts else 1, "failing_since": stored.failing_since if counts else now}
        if values["failures"] >= spec.failures:
            return self._open(connection, stored, spec, values)
        self._change(connection, stored, values)
        return None

    def succeed(self, connection: sa.Connection, agent: str, node: str, *, probe: str | None = None) -> Change | None:
        """Forget the failures of a node that answered; returns whether that closed an open breaker.

        An open one is closed only by the attempt that tried the node.
        """
        stored = self._locked(connection, agent, node)
        if stored.state == "closed":
            if stored.failures:
                self._change(connection, stored, {**_CLEAN, "changed_at": self._clock.now()})
            return None
        if stored.state != "half_open" or stored.probe != probe:
            return None
        self._change(connection, stored, {**_CLEAN, "changed_at": self._clock.now()})
        return "closed"

    def take_probe(self, connection: sa.Connection, agent: str, node: str, probe: str, seconds: float) -> bool:
        """Let one attempt try the node, for some seconds at most. False if another one does, or it is too early."""
        stored = self._locked(connection, agent, node)
        now = self._clock.now()
        if not stored.wants_probe(now):
            return False
        until = now + round(seconds * 1_000_000)
        self._change(
            connection, stored, {"state": "half_open", "retry_at": None, "probe": probe, "probe_until": until, "changed_at": now}
        )
        return True

    def give_up_probe(self, connection: sa.Connection, agent: str, node: str, probe: str) -> None:
        """Let another attempt try the node at once, as this one has told nothing of it."""
        stored = self._locked(connection, agent, node)
        if stored.state == "half_open" and stored.probe == probe:
            now = self._clock.now()
            values = {"state": "open", "retry_at": now, "probe": None, "probe_until": None, "changed_at": now}
            self._change(connection, stored, values)

    def of(self, connection: sa.Connection, agent: str) -> Mapping[str, StoredBreaker]:
        """The breakers of an agent, by node."""
        query = sa.select(node_breakers).where(node_breakers.c.agent == agent)
        return {row["node"]: StoredBreaker.model_validate(row) for row in connection.execute(query).mappings()}

    def not_closed(self, connection: sa.Connection) -> Sequence[StoredBreaker]:
        """All breakers that are open or half-open, the one that was opened first at the beginning."""
        query = sa.select(node_breakers).where(node_breakers.c.state != "closed").order_by(node_breakers.c.opened_at)
        return [StoredBreaker.model_validate(row) for row in connection.execute(query).mappings()]

    def forget(self, connection: sa.Connection, agent: str, node: str) -> None:
        """Forget all about a node that was removed."""
        connection.execute(sa.delete(node_breakers).where(node_breakers.c.agent == agent, node_breakers.c.node == node))

    def _open(
        self, connection: sa.Connection, stored: StoredBreaker, spec: BreakerSpec, values: Mapping[str, Any]
    ) -> Change | None:
        now, openings = self._clock.now(), stored.openings + 1
        opened: dict[str, Any] = {"state": "open", "openings": openings, "opened_at": stored.opened_at or now}
        opened |= {"retry_at": now + spec.pause_after(openings), "probe": None, "probe_until": None}
        self._change(connection, stored, {**values, **opened})
        return "opened" if stored.state == "closed" else None

    def _locked(self, connection: sa.Connection, agent: str, node: str) -> StoredBreaker:
        query = sa.select(node_breakers).where(node_breakers.c.agent == agent, node_breakers.c.node == node)
        row = connection.execute(query.with_for_update()).mappings().one_or_none()
        if row is None:
            return StoredBreaker(agent=agent, node=node, error_class=None, reason=None, changed_at=0, **_CLEAN)
        return StoredBreaker.model_validate(row)

    def _change(self, connection: sa.Connection, stored: StoredBreaker, values: Mapping[str, Any]) -> None:
        of = node_breakers.update().where(node_breakers.c.agent == stored.agent, node_breakers.c.node == stored.node)
        connection.execute(of.values(**values))
