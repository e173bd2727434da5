"""What this process has on the nodes of agents, and what it says of that to the others."""

import asyncio
import os
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.ids import new_id
from agent_pipelines.fleet.loads import Said
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.store.database import Connection, Database

_SAYING = 1.0  # seconds between two times that a process says what it works on

NodeKey = tuple[str, str]
"""Agent and name of a node."""


class Holdings:
    """Counts the attempts of this process on each node.

    A node with a capacity needs a permit for each. The process leases them from the database one by one and keeps those that
    are free for a moment, so that the next attempt need not ask again. What it works on it says once a second.
    """

    def __init__(self, database: Database, clock: Clock, fleet: Fleet) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._begin()

    @property
    def process(self) -> str:
        """The id under which this process speaks."""
        if os.getpid() != self._pid:
            self._begin()  # what was counted before a fork is the parent's
        return self._process

    def in_flight(self, key: NodeKey) -> int:
        """Attempts of this process on a node."""
        return self._in_flight[key]

    def has_permit(self, key: NodeKey) -> bool:
        """Whether one attempt more can begin on a node without asking."""
        return self._permits[key] > self._in_flight[key]

    def placed(self, agent: str) -> Mapping[str, int]:
        """How many attempts this process has placed on the nodes of an agent, by node."""
        return {node: count for (of, node), count in self._placed.items() if of == agent}

    def told(self, agent: str) -> Mapping[str, int]:
        """How many of them are counted in the record."""
        return {node: count for (of, node), count in self._told.items() if of == agent}

    async def take(self, key: NodeKey, capacity: int | None) -> bool:
        """Begin an attempt on a node. False if its capacity is used up."""
        process = self.process
        if capacity is not None and not self.has_permit(key):
            self._asking[key] += 1
            try:
                given = await self._database.write(lambda c: self._fleet.loads.acquire(c, *key, process))
            finally:
                self._asking[key] -= 1
            if not given:
                return False
            with self._lock:
                self._permits[key] += 1
                self._said.add(key)
        with self._lock:
            self._in_flight[key] += 1
            self._placed[key] += 1
        self._keep_saying()
        return True

    async def give_back(self, key: NodeKey) -> None:
        """End an attempt on a node."""
        with self._lock:
            self._in_flight[key] -= 1
            is_idle = not +self._in_flight
        if is_idle and self._said:
            await self.say()

    async def introduce(self) -> None:
        """Say what this process works on, unless it has done so lately."""
        if self._said_at is None or self._clock.now() - self._said_at >= _SAYING * 1_000_000:
            await self.say()

    async def say(self) -> None:
        """Say what this process works on, and give back the permits that it does not use. The database may fail."""
        process = self.process
        said: dict[str, dict[str, Said]] = {}
        placed: dict[str, dict[str, int]] = {}
        with self._lock:
            for key in {*+self._in_flight, *+self._permits, *self._said}:
                if self._asking[key]:
                    continue
                in_flight, permits = self._in_flight[key], self._permits[key]
                kept = min(permits, in_flight)
                self._permits[key] = kept
                said.setdefault(key[0], {})[key[1]] = Said(in_flight, kept, permits - kept)
                (self._said.add if in_flight else self._said.discard)(key)
            for (agent, node), count in (self._placed - self._told).items():
                placed.setdefault(agent, {})[node] = count
            self._told = self._placed.copy()
            self._said_at = self._clock.now()
        if not said and not placed:
            return

        def say(connection: Connection) -> None:
            for agent in sorted({*said, *placed}):
                self._fleet.loads.say(connection, agent, process, said.get(agent, {}))
                self._fleet.nodes.count_placed(connection, agent, placed.get(agent, {}))

        with suppress(StorageError):
            await self._database.write(say)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._process = new_id()
        self._lock = threading.Lock()
        self._in_flight: Counter[NodeKey] = Counter()
        self._permits: Counter[NodeKey] = Counter()
        self._asking: Counter[NodeKey] = Counter()
        self._placed: Counter[NodeKey] = Counter()
        self._told: Counter[NodeKey] = Counter()
        self._said: set[NodeKey] = set()
        self._said_at: Microseconds | None = None
        self._keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = weakref.WeakKeyDictionary()

    def _keep_saying(self) -> None:
        loop = asyncio.get_running_loop()
        keeper = self._keepers.get(loop)
        if keeper is None or keeper.done():
            self._keepers[loop] = loop.create_task(self._say_while_busy())

    async def _say_while_busy(self) -> None:
        while True:
            # Not by the clock of the deployment: one that a test moves would be moved on by this.
            await asyncio.sleep(_SAYING)
            if not +self._in_flight:
                return
            await self.say()
