"""The permits of one event loop: handed to what waits in it, and exchanged with those of other processes."""

import asyncio
import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.event import Usage
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.limit import PRIORITY_CLASSES, LimitSpec, PriorityClass
from agent_pipelines.flow.pace import Unit, paces
from agent_pipelines.flow.permits import AHEAD, Answer, Demand, Permits, Report, Start, ceiling
from agent_pipelines.store.database import Database

_SECOND = 1_000_000
_LOOK = 100_000  # microseconds between two looks whether there is something new to share
_BEAT = 1_000_000  # microseconds between two exchanges at most
_LINGER = 500_000  # microseconds for which permits that nobody uses are kept at hand
_HEADS = 256  # starts that are asked for at once


class Kind(NamedTuple):
    """What has the same right to the same permits."""

    workspace: str
    application: str
    priority_class: PriorityClass
    priority: int
    scopes: tuple[str, ...]


@dataclass(eq=False)
class Held:
    """Permits of one execution, and what was paid for it."""

    line: "Line"
    tokens: int
    needs_start: bool = True
    waits_since: Microseconds = 0
    granted_at: Microseconds = 0
    arrival: int = 0
    """Its number among all that came to the desk."""
    ready: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(eq=False)
class Line:
    """All of one kind in this loop: how many run, and who waits."""

    kind: Kind
    waiting: deque[Held] = field(default_factory=deque[Held])
    running: int = 0
    peak: int = 0
    """Most that ran and waited together since the last exchange."""
    allowed: int = 0
    is_starved: bool = False
    starts: deque[Start] = field(default_factory=deque[Start])
    capped: tuple[str, ...] = ()
    paced: tuple[tuple[str, Unit], ...] = ()

    @property
    def present(self) -> int:
        """Those that run and those that wait."""
        return self.running + len(self.waiting)


class Desk:
    """Hands permits out in one event loop. What it may hand out is a lease, which it looks at before each use."""

    def __init__(self, database: Database, clock: Clock, permits: Permits, *, lease: float, margin: float) -> None:
        self._database = database
        self._clock = clock
        self._permits = permits
        self._lease = round(lease * _SECOND)
        self._margin = round(margin * _SECOND)
        self._holder = new_id()
        self._limits: Mapping[str, LimitSpec] = {}
        self._lines: dict[Kind, Line] = {}
        self._in_use: dict[str, int] = defaultdict(int)
        self._held: Mapping[str, int] = {}
        self._target: Mapping[str, int] = {}
        self._others_wait = False
        self._offered: Mapping[str, int] | None = None
        self._valid_until: tuple[Microseconds, float] = (0, 0.0)
        self._served: dict[tuple[str, str], tuple[int, Microseconds]] = {}
        self._turn = 0
        self._arrivals = 0
        self._is_alone = True
        self._is_known = False
        self._corrections: defaultdict[tuple[str, Unit], int] = defaultdict(int)
        self._reported: Sequence[object] = ()
        self._version = -1
        self._next_start_at: Microseconds | None = None
        self.reading = asyncio.Lock()
        """Held by whoever reads the limits for this loop."""
        self._exchanging = asyncio.Lock()
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def take(self, kind: Kind, tokens: int, limits: Mapping[str, LimitSpec], *, again: bool = False) -> Held:
        """Wait for a permit of each scope of the kind; `again` for what had them already and goes on."""
        if limits is not self._limits and not self._lines:
            self._limits = limits
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = Line(kind)
            self._read_limits(line)
        self._arrivals += 1
        held = Held(line, tokens, not again, waits_since=self._clock.now(), arrival=self._arrivals)
        (line.waiting.appendleft if again else line.waiting.append)(held)
        line.peak = max(line.peak, line.present)
        self._serve()
        if not held.ready.done():
            self._wake.set()
        self._run_pump()
        try:
            await held.ready
        except asyncio.CancelledError:
            if held.ready.done() and not held.ready.cancelled() and held.ready.exception() is None:
                self.give(held, None)
            elif held in line.waiting:
                line.waiting.remove(held)
                self._wake.set()
            raise
        except Exception:
            line.waiting.remove(held)
            raise
        return held

    def give(self, held: Held, usage: Usage | None) -> None:
        """Give permits back; what was really used corrects the rates."""
        self._correct(held, usage)
        self._end(held)
        self._serve()
        if self._others_wait or held.line.present == 0:
            self._wake.set()

    def is_own(self, held: Held) -> bool:
        """Whether permits still belong to who was given them; while a process was suspended others may have taken them."""
        return self._is_valid() and all(self._in_use[scope] <= self._held.get(scope, 0) for scope in held.line.capped)

    def must_yield(self, held: Held) -> bool:
        """Whether somebody goes before what has these permits, or they are no longer its own."""
        line = held.line
        if not self.is_own(held):
            return True
        return line.kind.priority_class == "batch" and bool(line.capped) and line.running > line.allowed

    def suspend(self, held: Held) -> None:
        """Give permits back for a while."""
        self._end(held)
        self._serve()
        self._wake.set()

    async def close(self) -> None:
        """Give back everything that is not in use."""
        self._forget_empty()
        if self._lines:
            return
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.wait([pump])
        await self._leave()

    def _end(self, held: Held) -> None:
        line = held.line
        line.running -= 1
        for scope in line.kind.scopes:
            self._in_use[scope] -= 1

    def _correct(self, held: Held, usage: Usage | None) -> None:
        if usage is None:
            return
        for scope, unit in held.line.paced:
            if unit == "requests" and usage.requests is not None:
                self._corrections[scope, unit] += max(0, usage.requests - 1)
            elif unit == "tokens" and usage.total_tokens is not None:
                self._corrections[scope, unit] += usage.total_tokens - held.tokens

    def _read_limits(self, line: Line) -> None:
        scopes = line.kind.scopes
        line.capped = tuple(scope for scope in scopes if ceiling(scope, self._limits.get(scope)) is not None)
        line.paced = tuple((scope, unit) for scope in scopes if scope in self._limits for unit in paces(self._limits[scope]))

    # Handing out: no await between the look at what is free and its use.

    def _serve(self) -> None:
        if not any(line.waiting for line in self._lines.values()) or not self._is_valid():
            return
        while (line := self._next()) is not None:
            held = line.waiting.popleft()
            if held.ready.done():
                continue  # cancelled in this moment
            if line.paced and held.needs_start:
                held.tokens = line.starts.popleft().tokens
            line.running += 1
            for scope in line.kind.scopes:
                self._in_use[scope] += 1
            self._turn += 1
            held.granted_at = self._clock.now()
            self._served[line.kind[:2]] = (self._turn, held.granted_at)
            held.ready.set_result(None)

    def _is_valid(self) -> bool:
        """Whether the lease still holds; the process may have been suspended since the last exchange."""
        wall, monotonic = self._valid_until
        return self._clock.now() < wall and time.monotonic() < monotonic

    def _next(self) -> Line | None:
        now = self._clock.now()
        ready = [line for line in self._lines.values() if line.waiting and self._may_begin(line, now)]
        if not ready:
            return None
        surplus: dict[tuple[str, str, str], int] = defaultdict(int)
        for line in self._lines.values():
            # Without others what runs here is all that there is to share.
            surplus[line.kind[:3]] += line.running - (0 if self._is_alone else line.allowed)
        return min(ready, key=lambda line: self._standing(line, surplus))

    def _standing(self, line: Line, surplus: Mapping[tuple[str, str, str], int]) -> tuple[object, ...]:
        kind = line.kind
        return (
            not line.is_starved,
            PRIORITY_CLASSES.index(kind.priority_class),
            surplus[kind[:3]],
            self._served.get(kind[:2], (0, 0))[0],
            kind.application,
            -kind.priority,
            line.waiting[0].arrival,
        )

    def _may_begin(self, line: Line, now: Microseconds) -> bool:
        if any(self._in_use[scope] >= self._usable(scope) for scope in line.capped):
            return False
        if not line.paced or not line.waiting[0].needs_start:
            return True
        while line.starts and line.starts[0].until < now:
            # Too late to be used: later ones would come too close. What was paid for it is given back.
            self._refund(line, line.starts.popleft())
        return bool(line.starts) and line.starts[0].at <= now

    def _refund(self, line: Line, start: Start) -> None:
        for scope, unit in line.paced:
            self._corrections[scope, unit] -= 1 if unit == "requests" else start.tokens

    def _usable(self, scope: str) -> int:
        held = self._held.get(scope, 0)
        if self._others_wait:
            held = min(held, self._target.get(scope, 0))
        return held if self._offered is None else min(held, self._offered.get(scope, 0))

    # Exchanging with the other processes.

    def _run_pump(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._keep_exchanging())

    async def _keep_exchanging(self) -> None:
        try:
            await self._exchange_until_empty()
        except Exception as error:  # nobody else would tell those who wait
            for line in self._lines.values():
                for held in line.waiting:
                    if not held.ready.done():
                        held.ready.set_exception(error)
            raise

    async def _exchange_until_empty(self) -> None:
        now = self._clock.now()
        next_exchange, next_look, used_at = now, now + _LOOK, now
        while True:
            now = self._clock.now()
            self._forget_empty()
            if self._lines:
                used_at = now
            elif now - used_at >= _LINGER:
                await self._leave()
                if not self._lines:
                    return
                continue
            try:
                is_due = now >= next_exchange or self._has_unreported() or self._has_surplus() or self._lacks_starts()
                if not is_due and now >= next_look:
                    is_due = await self._database.read(self._permits.version) != self._version
                    next_look = self._clock.now() + _LOOK
                if is_due:
                    await self._exchange()
                    next_look = self._clock.now() + _LOOK
                    next_exchange = self._next_exchange()
            except StorageError:
                next_exchange = self._clock.now() + _BEAT
                next_look = next_exchange
            self._serve()
            await self._rest(min(next_exchange, next_look, self._first_start()))

    def _next_exchange(self) -> Microseconds:
        now = self._clock.now()
        has_idle = any(number > self._in_use[scope] for scope, number in self._held.items())
        following = now + (_LOOK if self._others_wait and has_idle else _BEAT)
        if self._next_start_at is not None:
            following = min(following, max(now + _LOOK // 2, self._next_start_at - AHEAD // 2))
        return following

    def _has_unreported(self) -> bool:
        """Whether something waits that the others have not been told of, and that this process has no permits for."""
        return any(line.waiting for line in self._lines.values()) and self._essence() != self._reported

    def _lacks_starts(self) -> bool:
        """Whether something waits that has no start, nor an instant at which it is worth while to ask for one."""
        return self._next_start_at is None and any(
            line.paced and len(line.waiting) > len(line.starts) for line in self._lines.values()
        )

    def _has_surplus(self) -> bool:
        """Whether there are free permits that others wait for."""
        if not self._others_wait:
            return False
        return any(number > max(self._target.get(scope, 0), self._in_use[scope]) for scope, number in self._held.items())

    def _first_start(self) -> Microseconds:
        return min((line.starts[0].at for line in self._lines.values() if line.waiting and line.starts), default=1 << 62)

    def _forget_empty(self) -> None:
        for kind, line in list(self._lines.items()):
            if line.present == 0:
                while line.starts:
                    self._refund(line, line.starts.popleft())
                del self._lines[kind]

    def _essence(self) -> Sequence[object]:
        return [(line.kind, self._wanted(line), bool(line.waiting)) for line in self._lines.values()]

    def _wanted(self, line: Line) -> int:
        caps = [ceiling(scope, self._limits.get(scope)) or 0 for scope in line.capped]
        return max(line.running, min([line.peak, *caps])) if caps else 1

    async def _exchange(self) -> None:
        async with self._exchanging:
            lines = list(self._lines.values())
            essence = self._essence()
            report = self._report(lines)
            self._offered = report.keep
            corrections = dict(self._corrections)
            self._corrections.clear()
            started = time.monotonic()
            for line in lines:
                line.peak = line.present
            self._is_known = True
            try:
                answer = await self._database.write(lambda connection: self._permits.exchange(connection, report))
            except BaseException:
                # It may have been committed all the same: what was offered is no longer ours.
                self._held = {scope: min(number, report.keep.get(scope, 0)) for scope, number in self._held.items()}
                for key, difference in corrections.items():
                    self._corrections[key] += difference
                raise
            finally:
                self._offered = None
            self._take_in(answer, lines)
            self._reported = essence
            self._valid_until = (
                report.sent_at + self._lease - self._margin,
                started + (self._lease - self._margin) / _SECOND,
            )

    def _report(self, lines: Sequence[Line]) -> Report:
        wanted: dict[str, int] = defaultdict(int)
        for line in lines:
            for scope in line.capped:
                wanted[scope] += self._wanted(line)
        keep = {scope: max(self._in_use[scope], min(self._usable(scope), wanted[scope])) for scope in self._held}
        keep.update({scope: number for scope, number in self._in_use.items() if number > keep.get(scope, 0)})
        keep = {scope: min(number, self._held.get(scope, 0)) for scope, number in keep.items()}
        return Report(
            holder=self._holder,
            host=socket.gethostname(),
            pid=os.getpid(),
            sent_at=self._clock.now(),
            lease=self._lease,
            demands=[self._demand(line) for line in lines],
            costs=[self._costs(line) for line in lines],
            keep=keep,
            corrections=dict(self._corrections),
        )

    def _demand(self, line: Line) -> Demand:
        costs = [held.tokens for held in line.waiting]
        return Demand(
            *line.kind,
            running=line.running,
            waiting=len(line.waiting),
            wanted=self._wanted(line),
            tokens=sum(costs) // len(costs) if costs else 0,
            waits_since=min((held.waits_since for held in line.waiting), default=None),
            served_at=self._served.get(line.kind[:2], (0, 0))[1],
        )

    def _costs(self, line: Line) -> Sequence[int]:
        if not line.paced:
            return ()
        new = [held.tokens for held in line.waiting if held.needs_start]
        return new[len(line.starts) : len(line.starts) + _HEADS]

    def _take_in(self, answer: Answer, lines: Sequence[Line]) -> None:
        self._held, self._target = answer.held, answer.target
        self._others_wait, self._is_alone = answer.others_wait, answer.is_alone
        self._version, self._next_start_at = answer.version, answer.next_start_at
        for line, allowed, starved, starts in zip(lines, answer.allowed, answer.starved, answer.starts, strict=True):
            line.allowed, line.is_starved = allowed, starved
            line.starts.extend(starts)
        if answer.limits != self._limits:
            self._limits = answer.limits
            for line in self._lines.values():
                self._read_limits(line)

    async def _leave(self) -> None:
        async with self._exchanging:
            if self._lines or not self._is_known:
                return
            report = self._report(())
            self._held, self._valid_until, self._reported = {}, (0, 0.0), ()
            corrections = dict(self._corrections)
            self._corrections.clear()
            try:
                await self._database.write(lambda connection: self._permits.leave(connection, report))
                self._is_known = False
            except StorageError:
                for key, difference in corrections.items():
                    self._corrections[key] += difference  # the permits come back when the lease ends

    async def _rest(self, until: Microseconds) -> None:
        seconds = (until - self._clock.now()) / _SECOND
        if seconds > 0 and not self._wake.is_set():
            waits = (asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._wake.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        else:
            await asyncio.sleep(0)
        self._wake.clear()
