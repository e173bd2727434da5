"""Looks after all executions that wait, so that no process has to hold any of them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import RuntimeFailure, StorageError
from agent_pipelines.core.secrets import redactor
from agent_pipelines.execution.arrived import Arrived, next_look
from agent_pipelines.execution.continuations import Continuations
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable_text
from agent_pipelines.ledger.waits import StoredWait
from agent_pipelines.runtimes.base import Progress, Runtime, StillRunning
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Connection, Database

_log = logging.getLogger("agent_pipelines.poller")

_LEASE = 90.0  # seconds that what was taken is nobody else's; a call and its writing must be over by then
_CALL = 30.0  # seconds that one call may take
_AT_ONCE = 16  # calls at once, over all nodes
_TAKEN = 2_000  # waits that one look takes
_PAUSE_AFTER = 3  # failed calls in a row after which a node is left alone
_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # seconds
_CANCELS = 5  # calls to cancel that may fail before it is given up
_IDLE = 1.0  # seconds between two looks

NodeKey = tuple[str, str]


@dataclass
class _Health:
    failures: int = 0
    paused_until: Microseconds = 0

    @property
    def is_doubtful(self) -> bool:
        return self.failures >= _PAUSE_AFTER


@dataclass
class Looked:
    """What one look did: calls that were made, waits that were taken, and those of them whose outcome has arrived."""

    taken: int = 0
    calls: int = 0
    arrived: int = 0
    failed_calls: int = 0


class Poller:
    """Takes the waits that are due, asks the agents about many of them at once, and has executions continued.

    Any number may run: a wait is leased to one of them at a time, and what that one writes after its lease is not written.
    A node that fails is left alone for longer and longer, up to five minutes, then tried with one call.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        continuations: Continuations,
        agents: Mapping[str, Callable[[], Agent]],
        *,
        lease: float = _LEASE,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._waits = ledger.executions.waits
        self._continuations = continuations
        self._makers = agents
        self._agents: dict[str, Agent] = {}
        self._health: defaultdict[NodeKey, _Health] = defaultdict(_Health)
        self._calls = asyncio.Semaphore(_AT_ONCE)
        self._lease = lease

    async def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Look again and again, until told otherwise. A database that fails is tried again."""
        try:
            while not until():
                try:
                    looked = await self.look()
                except StorageError as error:
                    _log.warning("the database cannot be used just now: %s", redactor.text(str(error)))
                    looked = Looked()
                if looked.taken < _TAKEN:
                    await self._clock.sleep(_IDLE)
        finally:
            await self.close()

    async def look(self) -> Looked:
        """Look once at everything that is due."""
        taken = await self._database.write(
            lambda connection: self._waits.take(connection, agents=self._makers.keys(), lease=self._lease, limit=_TAKEN)
        )
        looked = Looked(taken=len(taken))
        if not taken:
            return looked
        now = self._clock.now()
        here: list[StoredWait] = []
        calls: list[StoredWait] = []
        by_node: defaultdict[NodeKey, list[StoredWait]] = defaultdict(list)
        for wait in taken:
            if wait.cancel == "asked" or (wait.kind == "remote" and wait.state == "waiting" and now >= wait.deadline_at):
                calls.append(wait)
            elif wait.kind == "remote" and wait.state == "waiting":
                by_node[wait.agent, wait.node].append(wait)
            else:
                here.append(wait)
        works = [self._cancel(wait, looked) for wait in calls]
        for key, waits in by_node.items():
            works += await self._calls_of(key, waits, now, looked)
        await asyncio.gather(self._go_on(here, looked), *works)
        return looked

    async def close(self) -> None:
        """Close the agents."""
        for agent in self._agents.values():
            await agent.close()
        self._agents.clear()

    async def _go_on(self, waits: Sequence[StoredWait], looked: Looked) -> None:
        """Continue what has arrived, and what people have answered or have not answered in time."""
        if waits:
            await self._database.write(lambda connection: [self._continuations.decide(connection, wait) for wait in waits])
            looked.arrived += sum(wait.state == "waiting" for wait in waits)

    async def _calls_of(self, key: NodeKey, waits: Sequence[StoredWait], now: Microseconds, looked: Looked) -> Sequence[Any]:
        """The calls that ask a node about its waits; those that it is not asked about just now are given back."""
        runtime, health = self._runtime(*key), self._health[key]
        if runtime is None:
            words = f"agent {key[0]!r} has no node {key[1]!r} any more"
            await self._failed(waits, words)
            return []
        size = max(1, runtime.polls_at_once)
        chunks = [waits[start : start + size] for start in range(0, len(waits), size)]
        is_paused = now < health.paused_until
        asked = [] if is_paused else chunks[:1] if health.is_doubtful else chunks
        left = [wait for chunk in chunks[len(asked) :] for wait in chunk]
        if left:
            again = max(health.paused_until, now + 1_000_000)
            await self._database.write(lambda connection: [self._waits.put_back(connection, wait, again) for wait in left])
        return [self._poll(runtime, health, chunk, looked) for chunk in asked]

    async def _poll(self, runtime: Runtime[Any], health: _Health, waits: Sequence[StoredWait], looked: Looked) -> None:
        handles = [wait.handle for wait in waits if wait.handle is not None]
        async with self._calls:
            looked.calls += 1
            try:
                async with asyncio.timeout(_CALL):
                    found = await runtime.poll(handles)
            except TimeoutError:
                await self._call_failed(health, waits, f"no answer within {_CALL:g} s", None, looked)
                return
            except RuntimeFailure as failure:
                await self._call_failed(health, waits, failure.message, failure.retry_after, looked)
                return
            except Exception as error:  # a fault of the adapter must not end the poller
                await self._call_failed(health, waits, f"{type(error).__name__}: {error}", None, looked)
                return
        health.failures, health.paused_until = 0, 0
        now = self._clock.now()
        arrived = await self._database.write(lambda connection: self._note(connection, waits, found, now))
        looked.arrived += arrived

    def _note(self, connection: Connection, waits: Sequence[StoredWait], found: Mapping[str, Progress], now: Microseconds) -> int:
        count = 0
        for wait in waits:
            progress = found.get(wait.handle or "")
            if progress is None:
                words = "the runtime said nothing about this work"
                self._waits.look_again(connection, wait, next_look(wait, now, failed=True), error=words)
            elif isinstance(progress, StillRunning):
                self._waits.look_again(connection, wait, next_look(wait, now, retry_after=progress.retry_after))
            else:
                self._continuations.arrive(connection, wait, Arrived.of(progress))
                count += 1
        return count

    async def _call_failed(
        self, health: _Health, waits: Sequence[StoredWait], words: str, retry_after: float | None, looked: Looked
    ) -> None:
        looked.failed_calls += 1
        health.failures += 1
        if health.is_doubtful:
            pause = min(_SHORTEST_PAUSE * 2 ** (health.failures - _PAUSE_AFTER), _LONGEST_PAUSE)
            health.paused_until = self._clock.now() + round(max(pause, retry_after or 0.0) * 1_000_000)
            _log.warning("%s of %s is left alone for %g s: %s", waits[0].node, waits[0].agent, pause, redactor.text(words))
        await self._failed(waits, words, retry_after)

    async def _failed(self, waits: Sequence[StoredWait], words: str, retry_after: float | None = None) -> None:
        now = self._clock.now()

        def note(connection: Connection) -> None:
            for wait in waits:
                again = next_look(wait, now, retry_after=retry_after, failed=True)
                self._waits.look_again(connection, wait, again, error=words)

        await self._database.write(note)

    async def _cancel(self, wait: StoredWait, looked: Looked) -> None:
        """End work there whose result nobody wants any more, and record what came of that."""
        words = await self._cancel_call(wait, looked)
        now = self._clock.now()
        is_too_late = wait.cancel is None

        def note(connection: Connection) -> None:
            gives_up = is_too_late or wait.failures + 1 >= _CANCELS
            if words is not None and not gives_up:
                self._waits.look_again(connection, wait, _after(now, min(2.0**wait.failures, 60.0)), error=words)
                return
            result: Literal["done", "failed"] = "done" if words is None else "failed"
            body: dict[str, Any] = {"handle": wait.handle, "result": result, "error": recordable_text(words or "") or None}
            if is_too_late:
                self._continuations.arrive(connection, wait, Arrived.too_late(wait), cancel=result)
            else:
                self._waits.cancelled(connection, wait, result)
            self._ledger.journal.note(connection, wait.execution_id, at=now, kind="cancel_call", body=body)

        await self._database.write(note)
        looked.arrived += is_too_late

    async def _cancel_call(self, wait: StoredWait, looked: Looked) -> str | None:
        runtime = self._runtime(wait.agent, wait.node)
        if runtime is None or wait.handle is None:
            return f"agent {wait.agent!r} has no node {wait.node!r} any more"
        async with self._calls:
            looked.calls += 1
            try:
                async with asyncio.timeout(_CALL):
                    await runtime.cancel(wait.handle)
            except TimeoutError:
                return f"no answer within {_CALL:g} s"
            except RuntimeFailure as failure:
                return failure.message
            except Exception as error:  # a fault of the adapter
                return f"{type(error).__name__}: {error}"
        return None

    def _runtime(self, agent: str, node: str) -> Runtime[Any] | None:
        if agent not in self._agents:
            make = self._makers.get(agent)
            if make is None:
                return None
            try:
                self._agents[agent] = make()
            except Exception as error:  # a secret that is missing, say: the waits of others go on
                _log.warning("agent %s cannot be asked: %s", agent, redactor.text(f"{type(error).__name__}: {error}"))
                return None
        return next((each.runtime for each in self._agents[agent].nodes if each.name == node), None)


def _after(now: Microseconds, seconds: float) -> Microseconds:
    return now + round(seconds * 1_000_000)
