"""A node that fetches its work: asks for orders, does them on a runtime of its own, and reports what comes of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.base import Runtime
from agent_pipelines.runtimes.node import written_failure
from agent_pipelines.runtimes.node_client import CutOff, GivenOrder, NodeClient, NodeRefused

Said = TypeVar("Said")

_log = logging.getLogger("agent_pipelines.node")

_BEAT = 2.0  # seconds between two beats
_PULL = 20.0  # seconds that one request for work waits
_BATCH = 0.2  # seconds in which events are gathered before they are sent
_AT_ONCE = 500  # events of one request
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between tries while the control plane cannot be reached


class NodeWorker:
    """Works for one node of one agent until it is stopped.

    It goes on while the control plane cannot be reached, and reports when it can be: as long as the lease of an order lasts, by
    its own clock. After that, or when the order was taken from it, it stops the work.
    """

    def __init__(self, client: NodeClient, runtime: Runtime[Any], *, capacity: int, labels: Mapping[str, str]) -> None:
        self._client = client
        self._runtime = runtime
        self._capacity = capacity
        self._labels = labels
        self._running: dict[str, asyncio.Task[None]] = {}
        self._until: dict[str, float] = {}
        self._leases: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is at hand is finished first. Raises NodeRefused if the node is not wanted."""
        await _until_reached(
            lambda: self._client.register(capacity=self._capacity, labels=self._labels, runtime=self._runtime.kind)
        )
        _log.info("node %s of agent %s works, %d at once", self._client.node, self._client.agent, self._capacity)
        beating = asyncio.create_task(self._beat())
        pulling = asyncio.create_task(self._pull())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((beating, pulling, stopping), return_when=asyncio.FIRST_COMPLETED)
            pulling.cancel()
            for ended in (beating, pulling):
                if ended.done() and not ended.cancelled():
                    ended.result()
            if self._running:
                _log.info("%d orders are finished first", len(self._running))
                await asyncio.wait(
                    (beating, asyncio.gather(*self._running.values(), return_exceptions=True)), return_when="FIRST_COMPLETED"
                )
        finally:
            working = list(self._running.values())
            for task in (beating, pulling, stopping, *working):
                task.cancel()
            await asyncio.gather(beating, pulling, stopping, *working, return_exceptions=True)
            with suppress(CutOff, NodeRefused):
                await self._client.leave()
            await self._runtime.close()
            await self._client.close()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked_at, held = loop.time(), list(self._running)
            try:
                beaten = await self._client.beat(held)
            except CutOff as error:
                _log.warning("%s", redactor.text(str(error)))
            else:
                for order_id in held:
                    if order_id in beaten.held:
                        self._until[order_id] = asked_at + self._leases[order_id]
                    elif order_id in self._running:
                        _log.info("order %s is not wanted any more", order_id)
                        self._running[order_id].cancel()
            for order_id, task in self._running.items():
                if loop.time() >= self._until[order_id]:
                    _log.warning("the lease of order %s is over", order_id)
                    task.cancel()
            await asyncio.sleep(_BEAT)

    async def _pull(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._running) >= self._capacity:
                await asyncio.wait(list(self._running.values()), return_when=asyncio.FIRST_COMPLETED)
            free = self._capacity - len(self._running)
            asked_at = loop.time()
            held = list(self._running)
            orders = await _until_reached(lambda h=held, n=free: self._client.pull(h, limit=n, wait=_PULL))
            for order in orders:
                if order.id in self._running:
                    continue
                # From when it was asked for: that is before the control plane counts from.
                self._leases[order.id] = order.lease
                self._until[order.id] = max(asked_at, loop.time() - _PULL) + order.lease
                task = self._running[order.id] = asyncio.create_task(self._work(order))
                task.add_done_callback(lambda done, of=order.id: self._forget(of))

    def _forget(self, order_id: str) -> None:
        for known in (self._running, self._until, self._leases):
            known.pop(order_id, None)

    async def _work(self, order: GivenOrder) -> None:
        report = _Report(self._client, order)
        sending = asyncio.create_task(report.send_as_it_comes())
        failure: RuntimeFailure | None = None
        try:
            try:
                invocation = Invocation.model_validate(order.invocation)
                async with aclosing(self._runtime.stream(invocation)) as stream:
                    async for event in stream:
                        report.add(event)
            except RuntimeFailure as error:
                failure = error
            except ValidationError:
                words = "the order cannot be read; is the control plane of another version than this node?"
                failure = RuntimeFailure(ErrorClass.PROTOCOL, words)
            except Exception as error:  # a fault of the adapter must not end the node
                failure = RuntimeFailure(ErrorClass.INTERNAL, f"{type(error).__name__}: {error}")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await report.finish(failure)
        except NodeRefused as refused:
            _log.warning("order %s: %s", order.id, redactor.text(str(refused)))
        finally:
            sending.cancel()


class _Report:
    """The events of one order on their way: numbered from 1, sent in batches, until the other side has them."""

    def __init__(self, client: NodeClient, order: GivenOrder) -> None:
        self._client = client
        self._order = order
        self._seq = 0
        self._unsent: list[tuple[int, JsonValue]] = []
        self._added = asyncio.Event()

    def add(self, event: AgentEvent) -> None:
        self._seq += 1
        self._unsent.append((self._seq, redactor.value(event.model_dump(mode="json"))))
        self._added.set()

    async def send_as_it_comes(self) -> None:
        while True:
            await self._added.wait()
            await asyncio.sleep(_BATCH)
            self._added.clear()
            await self._send()

    async def finish(self, failure: RuntimeFailure | None) -> None:
        await self._send()
        written = None if failure is None else written_failure(failure)
        value = redactor.value(written)
        assert value is None or isinstance(value, dict)
        await _until_reached(lambda: self._client.finish(self._order, self._seq, value))

    async def _send(self) -> None:
        while self._unsent:
            some = self._unsent[:_AT_ONCE]
            last = await _until_reached(lambda s=some: self._client.report(self._order, s))
            self._unsent = [each for each in self._unsent if each[0] > last]


async def _until_reached(say: Callable[[], Awaitable[Said]]) -> Said:
    """Say something to the control plane, again and again while it cannot be reached."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return await say()
        except CutOff as error:
            _log.warning("%s", redactor.text(str(error)))
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
