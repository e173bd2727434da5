"""Work that is handed to nodes which fetch it, and what they report: under a lease, and fenced."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.ids import new_id
from agent_pipelines.fleet.nodes import SILENT
from agent_pipelines.store.conditions import equal
from agent_pipelines.store.insertion import insert_all
from agent_pipelines.store.tables import nodes, order_events, work_orders

_KEPT: Microseconds = 86_400_000_000  # that an order is kept after its end, to tell a late worker why it is refused

OrderState = Literal["queued", "claimed", "finished", "lost", "withdrawn", "cancelled"]
_OPEN = ("queued", "claimed")


class OrderRefused(AgentPipelinesError):
    """A worker reports on an order that is not its own any more."""


class WorkOrder(BaseModel):
    """One attempt that is handed to a node. `fence` counts the orders for the same work: a lower one is nobody's any more.

    A worker has it until `lease_until`, which it moves on as long as it lives. `last_seq` numbers the last event that came.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    key: str
    fence: int
    agent: str
    node: str
    state: OrderState
    invocation: dict[str, JsonValue] | None
    lease_us: int
    created_at: Microseconds
    worker: str | None
    claimed_at: Microseconds | None
    lease_until: Microseconds | None
    last_seq: int
    failure: dict[str, JsonValue] | None
    ended_at: Microseconds | None
    collected_at: Microseconds | None


class Standing(NamedTuple):
    """How an order stands, for those who wait for it."""

    state: OrderState
    last_seq: int
    failure: Mapping[str, JsonValue] | None


class WorkOrders:
    """Writes and reads the orders and their events. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put(
        self, connection: sa.Connection, key: str, *, agent: str, node: str, invocation: Mapping[str, JsonValue], lease: float
    ) -> WorkOrder:
        """Hand work to a node, with a lease of so many seconds.

        If an order for the same work is open, or has finished and nobody has read its answer, that one is returned: its work
        need not be done again. Old orders are forgotten on the way.
        """
        known = self.adoptable(connection, key)
        if known is not None:
            return known
        now = self._clock.now()
        connection.execute(sa.delete(work_orders).where(work_orders.c.ended_at < now - _KEPT))
        last = sa.select(sa.func.coalesce(sa.func.max(work_orders.c.fence), 0)).where(work_orders.c.key == key)
        row = {
            "id": new_id(),
            "key": key,
            "fence": connection.execute(last).scalar_one() + 1,
            "agent": agent,
            "node": node,
            "state": "queued",
            "invocation": dict(invocation),
            "lease_us": round(lease * 1_000_000),
            "created_at": now,
        }
        return WorkOrder.model_validate(connection.execute(work_orders.insert().returning(*work_orders.c), row).mappings().one())

    def adoptable(self, connection: sa.Connection, key: str) -> WorkOrder | None:
        """The order of some work that is open, or whose answer nobody has read."""
        unread = sa.or_(
            work_orders.c.state.in_(_OPEN), (work_orders.c.state == "finished") & work_orders.c.collected_at.is_(None)
        )
        query = sa.select(work_orders).where(work_orders.c.key == key, unread).order_by(work_orders.c.fence.desc()).limit(1)
        row = connection.execute(query).mappings().one_or_none()
        return None if row is None else WorkOrder.model_validate(row)

    def claim(
        self, connection: sa.Connection, agent: str, node: str, worker: str, *, held: Collection[str], limit: int
    ) -> Sequence[WorkOrder]:
        """Give a worker what waits for its node, oldest first; first what it was given before and does not know of."""
        now = self._clock.now()
        mine = sa.and_(work_orders.c.agent == agent, work_orders.c.node == node)
        unknown = sa.select(work_orders).where(
            mine, work_orders.c.state == "claimed", work_orders.c.worker == worker, work_orders.c.id.not_in(list(held))
        )
        given = [
            WorkOrder.model_validate(row) for row in connection.execute(unknown.order_by(work_orders.c.created_at)).mappings()
        ]
        waiting = sa.select(work_orders.c.id).where(mine, work_orders.c.state == "queued").order_by(work_orders.c.created_at)
        waiting = waiting.limit(max(0, limit - len(given))).with_for_update(skip_locked=True)
        ids = connection.execute(waiting).scalars().all()
        if ids:
            taken = work_orders.update().where(work_orders.c.id.in_(ids), work_orders.c.state == "queued")
            values = {"state": "claimed", "worker": worker, "claimed_at": now, "lease_until": now + work_orders.c.lease_us}
            rows = connection.execute(taken.values(**values).returning(*work_orders.c)).mappings()
            given += sorted((WorkOrder.model_validate(row) for row in rows), key=lambda order: order.created_at)
        return given

    def renew(self, connection: sa.Connection, worker: str, held: Collection[str]) -> Sequence[str]:
        """Move the leases of a worker on; returns the orders that are still its own."""
        if not held:
            return []
        now = self._clock.now()
        mine = work_orders.update().where(
            work_orders.c.worker == worker,
            work_orders.c.state == "claimed",
            work_orders.c.id.in_(list(held)),
            work_orders.c.lease_until >= now,
        )
        renewed = mine.values(lease_until=now + work_orders.c.lease_us).returning(work_orders.c.id)
        return sorted(connection.execute(renewed).scalars())

    def report(
        self,
        connection: sa.Connection,
        order_id: str,
        worker: str,
        fence: int,
        events: Sequence[tuple[int, Mapping[str, JsonValue]]],
    ) -> int:
        """Keep events of an order, which moves its lease on; returns the number of the last one that is kept.

        Events that came before are left out, and those behind a gap. Raises OrderRefused.
        """
        order = self._held(connection, order_id, worker, fence)
        last = order.last_seq
        rows: list[dict[str, Any]] = []
        for seq, event in sorted(events, key=lambda each: each[0]):
            if seq == last + 1:
                rows.append({"order_id": order_id, "seq": seq, "event": dict(event)})
                last = seq
        insert_all(connection, order_events, rows)
        until = self._clock.now() + order.lease_us
        connection.execute(work_orders.update().where(work_orders.c.id == order_id).values(last_seq=last, lease_until=until))
        return last

    def finish(
        self,
        connection: sa.Connection,
        order_id: str,
        worker: str,
        fence: int,
        *,
        last_seq: int,
        failure: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """End an order with all its events, or with a failure. A second time changes nothing. Raises OrderRefused."""
        stored = self.get(connection, order_id)
        if stored is not None and stored.state == "finished" and (stored.worker, stored.fence) == (worker, fence):
            return
        order = self._held(connection, order_id, worker, fence)
        if order.last_seq != last_seq:
            raise OrderRefused(
                f"order {order_id} ends with event {last_seq}, but {order.last_seq} was the last that came; send the rest"
            )
        values = {"state": "finished", "failure": None if failure is None else dict(failure), "ended_at": self._clock.now()}
        connection.execute(work_orders.update().where(work_orders.c.id == order_id).values(**values))

    def standings(self, connection: sa.Connection, ids: Collection[str]) -> Mapping[str, Standing]:
        """How orders stand, by id."""
        columns = (work_orders.c.id, work_orders.c.state, work_orders.c.last_seq, work_orders.c.failure)
        rows = connection.execute(sa.select(*columns).where(work_orders.c.id.in_(list(ids)))).all()
        return {order_id: Standing(*others) for order_id, *others in rows}

    def events(self, connection: sa.Connection, order_id: str, after: int) -> Sequence[Mapping[str, JsonValue]]:
        """The events of an order after a number, in order."""
        query = sa.select(order_events.c.event).where(order_events.c.order_id == order_id, order_events.c.seq > after)
        return connection.execute(query.order_by(order_events.c.seq)).scalars().all()

    def end_silent(self, connection: sa.Connection, ids: Collection[str]) -> int:
        """End those of the orders that nobody works on: lost if their lease is over, withdrawn if they wait for a silent node.

        Returns how many were ended.
        """
        now = self._clock.now()
        of = work_orders.c.id.in_(list(ids))
        lost = work_orders.update().where(of, work_orders.c.state == "claimed", work_orders.c.lease_until < now)
        count = connection.execute(lost.values(state="lost", ended_at=now)).rowcount
        lives = sa.exists().where(
            nodes.c.agent == work_orders.c.agent, nodes.c.name == work_orders.c.node, nodes.c.beat_at >= now - SILENT
        )
        waiting = work_orders.update().where(of, work_orders.c.state == "queued", ~lives)
        return count + connection.execute(waiting.values(state="withdrawn", ended_at=now)).rowcount

    def fence_off(self, connection: sa.Connection, agent: str, node: str, worker: str) -> int:
        """End what other workers hold for a node, now that a new one speaks for it; returns how many orders that were."""
        held = work_orders.update().where(
            work_orders.c.agent == agent,
            work_orders.c.node == node,
            work_orders.c.state == "claimed",
            work_orders.c.worker != worker,
        )
        return connection.execute(held.values(state="lost", ended_at=self._clock.now())).rowcount

    def cancel(self, connection: sa.Connection, order_id: str) -> bool:
        """End an order because nobody wants its answer; its worker hears of it with its next beat. False if it has ended."""
        wanted = work_orders.update().where(work_orders.c.id == order_id, work_orders.c.state.in_(_OPEN))
        return connection.execute(wanted.values(state="cancelled", ended_at=self._clock.now())).rowcount == 1

    def collected(self, connection: sa.Connection, order_id: str) -> None:
        """Note that the answer of an order was read; what it said is not kept twice."""
        connection.execute(sa.delete(order_events).where(order_events.c.order_id == order_id))
        of = work_orders.update().where(work_orders.c.id == order_id)
        connection.execute(of.values(collected_at=self._clock.now(), invocation=None))

    def waiting_nodes(self, connection: sa.Connection) -> set[tuple[str, str]]:
        """Agent and name of the nodes that something waits for."""
        query = sa.select(work_orders.c.agent, work_orders.c.node).where(work_orders.c.state == "queued").distinct()
        return {(agent, node) for agent, node in connection.execute(query).all()}

    def get(self, connection: sa.Connection, order_id: str) -> WorkOrder | None:
        """An order by its id."""
        row = connection.execute(sa.select(work_orders).where(work_orders.c.id == order_id)).mappings().one_or_none()
        return None if row is None else WorkOrder.model_validate(row)

    def list(
        self, connection: sa.Connection, *, agent: str | None = None, node: str | None = None, limit: int = 50
    ) -> Sequence[WorkOrder]:
        """Orders of an agent or a node, newest first."""
        query = sa.select(work_orders).where(*equal({work_orders.c.agent: agent, work_orders.c.node: node}))
        rows = connection.execute(query.order_by(work_orders.c.created_at.desc()).limit(limit)).mappings()
        return [WorkOrder.model_validate(row) for row in rows]

    def _held(self, connection: sa.Connection, order_id: str, worker: str, fence: int) -> WorkOrder:
        query = sa.select(work_orders).where(work_orders.c.id == order_id).with_for_update()
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise OrderRefused(f"there is no order {order_id}")
        order = WorkOrder.model_validate(row)
        if order.worker != worker or order.fence != fence:
            raise OrderRefused(f"order {order_id} was not given to this worker under fence {fence}")
        if order.state != "claimed":
            raise OrderRefused(f"order {order_id} is {order.state}; whatever is reported now comes too late")
        if order.lease_until is None or order.lease_until < self._clock.now():
            raise OrderRefused(f"the lease of order {order_id} is over; whatever is reported now comes too late")
        return order
