"""Flow control: every attempt waits here until the limits that concern it allow it to begin."""

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.limit import LimitSpec, PriorityClass, Scope
from agent_pipelines.core.task import TaskKey
from agent_pipelines.execution.desk import Desk, Held, Kind
from agent_pipelines.execution.permit import Permit
from agent_pipelines.execution.work import Work
from agent_pipelines.flow.limits import Limits
from agent_pipelines.flow.permits import Permits
from agent_pipelines.runtimes.fleet import Place
from agent_pipelines.store.database import Database

LEASE = 10.0
"""Seconds after which the permits of a process that says nothing belong to others."""

_MARGIN = 2.0  # seconds before the end of its lease from which on a process begins nothing more
_TRUSTED = 1_000_000  # microseconds for which limits that were read are believed
_TOKENS = 1_000  # thought of a request of which nothing is known
_TASKS = 4_096  # tasks of which it is remembered what they used


class FlowControl:
    """Lets executions begin as the limits allow, in this process together with all others.

    Who waits, and in which order they go on, is written in `agent_pipelines.flow.sharing`. Without a limit that concerns an
    execution it costs nothing but a look at the limits each second.
    """

    def __init__(self, database: Database, clock: Clock, limits: Limits, permits: Permits, *, lease: float = LEASE) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._permits = permits
        self._lease = lease
        self._margin = min(_MARGIN, lease / 4)
        self._in_force: Mapping[str, LimitSpec] = {}
        self._read_at: Microseconds | None = None
        self._desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._used: OrderedDict[TaskKey, int] = OrderedDict()

    async def acquire(
        self,
        scopes: Sequence[str],
        *,
        application: str,
        priority_class: PriorityClass = "normal",
        priority: int = 0,
        tokens: int = 0,
        workspace: str = "default",
    ) -> Permit:
        """Wait until each of the scopes allows one more; `tokens` is what it is thought to use.

        Raises StorageError if the limits cannot be read.
        """
        named = tuple(sorted({str(Scope.parse(scope)) for scope in scopes}))
        limits = await self._current()
        if not _concerned(named, limits):
            return Permit(named)
        asked_at = self._clock.now()
        desk = self._desk()
        held = await desk.take(Kind(workspace, application, priority_class, priority, named), tokens, limits)
        return Permit(named, self._clock.now() - asked_at, desk, held)

    async def confirm(self, permit: Permit) -> float:
        """Make sure of a permit immediately before it is used; waits if it was lost while the process was suspended.

        Returns the seconds that were waited.
        """
        waited = 0.0
        while (held := permit.held) is not None and permit.desk is not None and not permit.desk.is_own(held):
            waited += await self._again(permit, permit.desk, held)
        return waited

    async def boundary(self, permit: Permit) -> float:
        """Let others go first, if somebody does, at a place where work can stop: waits until it may go on.

        Returns the seconds that were waited. The request was counted already: it is not counted again.
        """
        desk, held = permit.desk, permit.held
        if desk is None or held is None or not desk.must_yield(held):
            return 0.0
        return await self._again(permit, desk, held)

    async def _again(self, permit: Permit, desk: Desk, held: Held) -> float:
        asked_at = self._clock.now()
        permit.held = None
        desk.suspend(held)
        permit.held = await desk.take(held.line.kind, held.tokens, self._in_force, again=True)
        waited = self._clock.now() - asked_at
        permit.queued += waited
        return waited / 1_000_000

    async def admit(self, work: Work, place: Place) -> None:
        """Wait for the permit of the attempt that is to begin, in all scopes that it belongs to; recorded as span `queue`.

        The time is none of those that limit the task.
        """
        scopes = scopes_of(work, place)
        if _concerned(scopes, await self._current()) and (ahead := work.begins_at - self._clock.now()) > 0:
            await self._clock.sleep(ahead / 1_000_000)  # a permit that waits for the clock would be missed elsewhere
        asked_at = self._clock.now()
        spec = work.spec
        work.permit = permit = await self.acquire(
            scopes,
            application=spec.application,
            priority_class=spec.waits_as,
            priority=spec.priority,
            tokens=self._estimate(work),
            workspace=spec.workspace,
        )
        if permit.held is not None:
            self._note(work, asked_at, permit.queued)

    async def confirm_for(self, work: Work) -> None:
        """The same as `confirm` for the attempt that is to be made; recorded, too."""
        await self._noted(work, self.confirm)

    async def yield_at(self, work: Work) -> float:
        """The same as `boundary` for an attempt that is made; recorded, too."""
        return await self._noted(work, self.boundary)

    async def _noted(self, work: Work, wait: Callable[[Permit], Awaitable[float]]) -> float:
        asked_at = self._clock.now()
        waited = 0.0 if work.permit is None else await wait(work.permit)
        if waited > 0:
            self._note(work, asked_at, self._clock.now() - asked_at)
        return waited

    def settle(self, work: Work) -> None:
        """Give back the permit of an attempt, and remember what the task used; again without effect."""
        permit, work.permit = work.permit, None
        usage, work.usage = work.usage, None
        if permit is None:
            return
        if usage is not None and usage.total_tokens is not None:
            self._used[work.spec.key] = usage.total_tokens
            self._used.move_to_end(work.spec.key)
            while len(self._used) > _TASKS:
                self._used.popitem(last=False)
        permit.release(usage)

    def _note(self, work: Work, asked_at: Microseconds, queued: Microseconds) -> None:
        work.queued += queued
        deadline_at = work.invocation.deadline_at
        if deadline_at is not None:
            work.invocation = work.invocation.model_copy(update={"deadline_at": deadline_at + queued})
        attributes: dict[str, JsonValue] = {
            "agent_pipelines.scopes": [*work.permit.scopes] if work.permit is not None else [],
            "agent_pipelines.priority_class": work.spec.waits_as,
            "agent_pipelines.queued_us": queued,
        }
        work.trace.add("queue", asked_at, self._clock.now(), attributes=attributes)

    async def close(self) -> None:
        """Give back what this event loop holds and does not use."""
        desk = self._desks.get(asyncio.get_running_loop())
        if desk is not None:
            await desk.close()

    def _estimate(self, work: Work) -> int:
        known = self._used.get(work.spec.key)
        return work.spec.cost_estimate.tokens or (_TOKENS if known is None else known)

    async def _current(self) -> Mapping[str, LimitSpec]:
        if not self._is_fresh():
            async with self._desk().reading:
                if not self._is_fresh():
                    read_at = self._clock.now()
                    self._in_force = await self._database.read(self._limits.in_force)
                    self._read_at = read_at
        return self._in_force

    def _is_fresh(self) -> bool:
        return self._read_at is not None and 0 <= self._clock.now() - self._read_at < _TRUSTED

    def _desk(self) -> Desk:
        loop = asyncio.get_running_loop()
        with self._lock:
            desk = self._desks.get(loop)
            if desk is None:
                desk = Desk(self._database, self._clock, self._permits, lease=self._lease, margin=self._margin)
                self._desks[loop] = desk
            return desk


def scopes_of(work: Work, place: Place) -> tuple[str, ...]:
    """All scopes that an attempt at a place belongs to."""
    spec = work.spec
    of = (
        ("application", spec.application),
        ("task", spec.path),
        ("agent", place.agent.name),
        ("node", f"{place.agent.name}/{place.node.name}"),
        ("provider", place.agent.provider),
        *(("resource", key) for key in spec.resource_keys),
    )
    return tuple(sorted(Scope.of(kind, name, spec.workspace) for kind, name in of))


def _concerned(scopes: Sequence[str], limits: Mapping[str, LimitSpec]) -> bool:
    return any(scope in limits or scope.startswith("resource/") for scope in scopes)
