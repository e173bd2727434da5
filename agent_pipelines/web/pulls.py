"""Workers that wait for work: one look at the database serves all of them."""

import asyncio
import weakref
from dataclasses import dataclass, field

from agent_pipelines.fleet.orders import WorkOrders
from agent_pipelines.store.database import Database

_POLL = 0.1  # seconds between two looks while somebody waits

NodeKey = tuple[str, str]


@dataclass
class _Desk:
    waiting: dict[asyncio.Future[None], NodeKey] = field(default_factory=dict[asyncio.Future[None], NodeKey])
    poller: asyncio.Task[None] | None = None


class Pulls:
    """Lets requests wait until there is an order for their node."""

    def __init__(self, database: Database, orders: WorkOrders) -> None:
        self._database = database
        self._orders = orders
        self._desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = weakref.WeakKeyDictionary()

    async def wait(self, node: NodeKey, seconds: float) -> None:
        """Wait until there is an order for a node, given by agent and name, or for so many seconds. Raises StorageError."""
        loop = asyncio.get_running_loop()
        desk = self._desks.setdefault(loop, _Desk())
        found: asyncio.Future[None] = loop.create_future()
        desk.waiting[found] = node
        if desk.poller is None or desk.poller.done():
            desk.poller = loop.create_task(self._poll(desk))
        try:
            await asyncio.wait((found,), timeout=seconds)
            if found.done():
                found.result()
        finally:
            desk.waiting.pop(found, None)

    async def _poll(self, desk: _Desk) -> None:
        while desk.waiting:
            try:
                nodes = await self._database.read(self._orders.waiting_nodes)
            except Exception as error:
                for found in desk.waiting:
                    if not found.done():
                        found.set_exception(error)
                return
            for found, node in desk.waiting.items():
                if node in nodes and not found.done():
                    found.set_result(None)
            await asyncio.sleep(_POLL)
