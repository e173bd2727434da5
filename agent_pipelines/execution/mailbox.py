"""The orders of nodes that fetch their work, in the database."""

import asyncio
import weakref
from dataclasses import dataclass, field

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.fleet.orders import Standing, WorkOrders
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.runtimes.node import Reply
from agent_pipelines.store.database import Connection, Database

_POLL = 0.05  # seconds between two looks at all orders that this process waits for
_ENDING = 1_000_000  # microseconds between two looks for those that nobody works on any more


@dataclass
class _Waiting:
    seen: int
    found: asyncio.Future[Standing]


@dataclass
class _Desk:
    """What one event loop waits for; one look serves all."""

    waiting: dict[str, _Waiting] = field(default_factory=dict[str, _Waiting])
    poller: asyncio.Task[None] | None = None


class DatabaseMailbox:
    """Leaves orders for nodes and waits for what comes of them. What is known to be secret stays here."""

    def __init__(self, database: Database, clock: Clock, orders: WorkOrders) -> None:
        self._database = database
        self._clock = clock
        self._orders = orders
        self._desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = weakref.WeakKeyDictionary()
        self._ended_at: Microseconds = 0

    async def send(self, agent: str, node: str, invocation: Invocation, lease: float) -> str:
        """Leave an order; returns its id. An order for the same work that is open or unread is taken up again."""
        key = invocation.idempotency_key
        written = recordable(invocation.model_dump(mode="json"))
        assert isinstance(written, dict)
        order = await self._database.write(
            lambda c: self._orders.put(c, key, agent=agent, node=node, invocation=written, lease=lease)
        )
        return order.id

    async def read(self, order_id: str, after: int) -> Reply:
        """Wait until there are events after a number, or the order has ended."""
        standing = await self._changed(order_id, after)
        if standing.last_seq == after:
            return Reply(standing.state, failure=standing.failure)
        events = await self._database.read(lambda c: self._orders.events(c, order_id, after))
        # More may have come meanwhile: the end is told when all before it was.
        state = standing.state if after + len(events) == standing.last_seq else "claimed"
        return Reply(state, events, standing.failure)

    async def close(self, order_id: str) -> None:
        """Say that nobody waits for the order any more; one that runs is cancelled."""

        def close(connection: Connection) -> None:
            self._orders.cancel(connection, order_id)
            self._orders.collected(connection, order_id)

        await self._database.write(close)

    async def _changed(self, order_id: str, after: int) -> Standing:
        loop = asyncio.get_running_loop()
        desk = self._desks.setdefault(loop, _Desk())
        waiting = desk.waiting[order_id] = _Waiting(after, loop.create_future())
        if desk.poller is None or desk.poller.done():
            desk.poller = loop.create_task(self._poll(desk))
        try:
            return await waiting.found
        finally:
            desk.waiting.pop(order_id, None)

    async def _poll(self, desk: _Desk) -> None:
        while desk.waiting:
            ids = list(desk.waiting)
            try:
                now = self._clock.now()
                if not 0 <= now - self._ended_at < _ENDING:
                    self._ended_at = now
                    await self._database.write(lambda c, of=ids: self._orders.end_silent(c, of))
                standings = await self._database.read(lambda c, of=ids: self._orders.standings(c, of))
            except Exception as error:
                for waiting in desk.waiting.values():
                    if not waiting.found.done():
                        waiting.found.set_exception(error)
                return
            for order_id, waiting in desk.waiting.items():
                standing = standings.get(order_id)
                if standing is None:
                    continue
                if (standing.last_seq > waiting.seen or standing.state not in ("queued", "claimed")) and not waiting.found.done():
                    waiting.found.set_result(standing)
            await self._clock.sleep(_POLL)
