"""A burst: many ticks executed together, on one event loop."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status, Verdict
from agent_pipelines.core.task import INTERACTIVE, TaskSpec
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.tick import AGAIN, CONTINUATION, REPAIR, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.timekeeper import AHEAD
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.execution.intake import Declarations, Intake, Prepared
from agent_pipelines.execution.runner import Runner
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Connection, Database

_SECOND = 1_000_000
_FASTEST, _SLOWEST = 0.05, 0.5  # seconds between two looks for ticks: while there are some, and after a while without any
_REFILL = 0.02  # seconds that free places are left free at most while ticks wait, so that one look fills several
_RESERVED = 100_000  # microseconds between two looks of a burst that is full for ticks that go before the others
_BEAT = 1.0  # seconds
_UNKEPT = 10 * _SECOND  # for how long something may be due before nobody is thought to claim it
_PATIENCE = 60.0  # seconds for which the database may fail before the burst gives up


@dataclass(frozen=True)
class BurstNouns:
    """What a burst needs of a deployment."""

    database: Database
    clock: Clock
    ledger: Ledger
    ticks: Ticks
    triggers: Triggers
    bursts: Bursts
    inbox: Inbox
    runner: Runner


@dataclass(frozen=True)
class Ended:
    """What became of a tick: the result of its execution, or the reason why there is none."""

    tick: Tick
    spec: TaskSpec | None
    result: ExecutionResult | None
    reason: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the work was not done, though it should have been."""
        return self.result is None or self.result.status in (Status.FAILED, Status.CANCELLED)


class BurstWorker:
    """Executes ticks of lane `burst` of one workspace, each for itself, a limited number at once.

    Ticks are taken up to a second ahead and begin on their instant. What happens to one execution harms no other. Cancelling
    `work` cancels and settles what is in flight and gives back what was not admitted. `tell` is called on the event loop with
    whatever ends; it must return at once.
    """

    def __init__(
        self,
        nouns: BurstNouns,
        run: RunRef,
        workspace: str,
        settings: BurstSettings,
        declared: Declarations,
        tell: Callable[[Ended], None] = lambda ended: None,
    ) -> None:
        self._nouns = nouns
        self._clock = nouns.clock
        self._run = run
        self._workspace = workspace
        self._settings = settings
        self.intake = Intake(
            nouns.database, nouns.ticks, nouns.inbox, nouns.ledger, run_id=run.run_id, workspace=workspace, declared=declared
        )
        self._tell = tell
        self._waiting: list[Prepared] = []
        self._running: dict[asyncio.Task[None], Prepared] = {}
        self._broken: list[tuple[Prepared, Exception]] = []
        self._has_more = False
        self._next_reserved = 0
        self._may_have_strays = False
        self._wake = asyncio.Event()
        self.done = 0
        self.failed = 0

    @property
    def run_id(self) -> str:
        """The Dagster run that the burst is."""
        return self._run.run_id

    @property
    def in_flight(self) -> int:
        """Executions that have begun and not ended."""
        return len(self._running)

    def put(self, prepared: Iterable[Prepared]) -> None:
        """Have ticks executed that were taken already."""
        self._waiting += prepared

    async def work(self) -> None:
        """Execute ticks until there are none for a while, or until the burst is old enough.

        Raises StorageError if the database fails for a minute.
        """
        # Gates, checks and looks at the database run in threads: a slow gate must not keep the others waiting.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._settings.share + 8, "agent-pipelines-burst"))
        interrupted = True
        try:
            await self._write(lambda c: self._nouns.bursts.open(c, self._run.run_id, self._workspace))
            await self._until_over()
            interrupted = False
        finally:
            await asyncio.shield(self._end(interrupted))

    async def _until_over(self) -> None:
        opened = idle_since = well_at = self._clock.now()
        next_look = next_beat = opened
        pause = _FASTEST
        is_closing = False
        while True:
            now = self._clock.now()
            if now + _SECOND < max(opened, well_at):
                # The clock was set back: what is to be done at an instant of before would not be done for as long.
                opened = idle_since = well_at = next_look = next_beat = now
            try:
                # First: one that was suspended and taken for dead must be looked after again before it takes anything.
                if now >= next_beat:
                    await self._beat()
                    next_beat = self._clock.now() + _microseconds(_BEAT)
                if not is_closing and now >= next_look:
                    pause = _FASTEST if await self._take() else min(2 * pause, _SLOWEST)
                    next_look = self._clock.now() + _microseconds(_REFILL if self._has_more else pause)
                self._begin()
                if self._has_more or self._is_busy:
                    idle_since = self._clock.now()
                if not is_closing and await self._is_enough(opened, idle_since):
                    await self._write(lambda c: self._nouns.bursts.closing(c, self._run.run_id))
                    is_closing = True
                well_at = self._clock.now()
            except StorageError:
                self._may_have_strays = True
                if self._clock.now() - well_at > _microseconds(_PATIENCE):
                    raise
                next_look = next_beat = self._clock.now() + _SECOND
            if is_closing and not self._is_busy:
                return
            await self._rest(next_beat if is_closing else min(next_look, next_beat))

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._running or self._broken)

    async def _take(self) -> bool:
        """Take as many ticks as there are free places; whether there were any."""
        in_hand = len(self._running) + len(self._waiting) + len(self._broken)
        room, priority_from = self._settings.share - in_hand, None
        if room <= 0:
            # What waits for a permit fills the places, too: some are left for those that go before it.
            room, priority_from = room + max(1, self._settings.share // 4), INTERACTIVE
            if room <= 0 or self._clock.now() < self._next_reserved:
                return True
            self._next_reserved = self._clock.now() + _RESERVED
        until = self._clock.now() + AHEAD
        if priority_from is not None or not self._has_more:
            first = await self.intake.next_begin(priority_from=priority_from)
            if first is None or first > until:
                return priority_from is not None
        self._has_more = False
        prepared, refused = await self.intake.take(until, room, priority_from=priority_from)
        self._has_more = len(prepared) + len(refused) == room or priority_from is not None
        for each in refused:
            self._note(Ended(each.tick, None, None, each.reason))
        self.put(prepared)
        return bool(prepared or refused)

    def _begin(self) -> None:
        """Begin those that were taken, in that order: each makes itself ready, and asks its agent on its instant."""
        begun, self._waiting = self._waiting, []
        for prepared in begun:
            self._running[asyncio.create_task(self._execute(prepared))] = prepared

    async def _execute(self, prepared: Prepared) -> None:
        ended: Ended | None = None
        try:
            result = await self._nouns.runner.run(
                prepared.invocation,
                prepared.spec,
                prepared.agent,
                run=self._reference(prepared),
                checks=prepared.checks,
                gate=prepared.gate,
                begins_at=prepared.tick.begins_at,
                others=prepared.others,
            )
            await self._note_repaired(prepared, result)
            ended = Ended(prepared.tick, prepared.spec, result)
        except asyncio.CancelledError:
            # By the beat because somebody closed the execution, or by the end of the burst: the record knows.
            ended = await self._recorded(prepared)
        except Exception as error:
            self._broken.append((prepared, error))
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._running.pop(task, None)
            if ended is not None:
                self._note(ended)
            if not self._running:
                self._wake.set()

    def _reference(self, prepared: Prepared) -> RunRef:
        tick = prepared.tick
        partition = None if tick.spec_hash is None else tick.path
        continues = tick.occurrence if tick.trigger == CONTINUATION else None
        return self._run.model_copy(update={"partition": partition, "resumes": tick.trigger in AGAIN, "continues": continues})

    async def _note_repaired(self, prepared: Prepared, result: ExecutionResult) -> None:
        """Give a repair its verdict, which admission gives to the tick that it repairs."""
        tick = prepared.tick
        if tick.trigger == REPAIR:
            run_id, execution_id = self._run.run_id, result.execution_id
            await self._write(
                lambda c: self._nouns.ticks.decide(
                    c, tick.task_key, tick.trigger, tick.occurrence, Verdict.RAN, run_id=run_id, execution_id=execution_id
                )
            )

    async def _recorded(self, prepared: Prepared) -> Ended | None:
        try:
            stored = await self._nouns.database.read(lambda c: self._nouns.ledger.executions.of_key(c, prepared.key))
        except StorageError:
            return None
        if stored is None or stored.run_id != self._run.run_id or stored.finished_at is None:
            return None
        return Ended(prepared.tick, prepared.spec, stored.result())

    def _note(self, ended: Ended) -> None:
        self.done += 1
        self.failed += ended.has_failed
        self._tell(ended)

    async def _beat(self) -> None:
        """Say that the burst lives, stop what somebody else has closed, and mend what broke."""
        await self._mend()
        run_id, keys = self._run.run_id, [each.key for each in self._running.values()]
        in_flight, done, failed = len(keys), self.done, self.failed
        in_hand = [each.tick.id for each in (*self._waiting, *self._running.values())] if self._may_have_strays else None

        def beat(connection: Connection) -> set[str]:
            self._nouns.bursts.beat(connection, run_id, in_flight=in_flight, done=done, failed=failed)
            if in_hand is not None:
                # Taken in a transaction that was committed, though the answer was lost.
                self._nouns.ticks.give_back(connection, run_id, but=in_hand)
            return self._nouns.ledger.executions.not_for(connection, run_id, keys) if keys else set()

        gone = await self._nouns.database.write(beat)
        self._may_have_strays = False
        for task, prepared in self._running.items():
            if prepared.key in gone:
                task.cancel()

    async def _mend(self) -> None:
        """Bring executions to an end in the record that the runner could not.

        One that was not admitted is executed after all if it was the database that failed. For one that was, nobody knows what
        its agent has done.
        """
        while self._broken:
            prepared, error = self._broken[-1]
            words = f"{type(error).__name__}: {error}"
            is_free = await self._nouns.database.write(lambda c, p=prepared, e=error, w=words: self._close(c, p, e, w))
            self._broken.pop()
            if is_free:
                self._waiting.append(prepared)
                continue
            ended = await self._recorded(prepared)
            self._note(ended or Ended(prepared.tick, prepared.spec, None, words))

    def _close(self, connection: Connection, prepared: Prepared, error: Exception, words: str) -> bool:
        tick = self._nouns.ticks.by_ids(connection, [prepared.tick.id]).get(prepared.tick.id)
        if tick is not None and tick.verdict is None:
            if isinstance(error, StorageError):
                return True
            self._nouns.ticks.decide(
                connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.LAUNCH_FAILED, reason=words
            )
            return False
        stored = self._nouns.ledger.executions.of_key(connection, prepared.key)
        if stored is not None and stored.run_id == self._run.run_id:
            self._nouns.ledger.executions.close_lost(connection, stored.id, f"its record could not be kept: {words}")
        return False

    async def _is_enough(self, opened: Microseconds, idle_since: Microseconds) -> bool:
        now = self._clock.now()
        if now - opened >= _microseconds(self._settings.age):
            return True
        if self._is_busy or self._has_more or now - idle_since < _microseconds(self._settings.idle):
            return False
        # A burst that ends just before something is due would have to be replaced at once. What has been due for long shows
        # that nobody keeps the time.
        workspace = self._workspace
        due = await self._nouns.database.read(lambda c: self._nouns.triggers.next_due_at(c, "burst", workspace=workspace))
        return due is None or not -_UNKEPT < due - now <= _microseconds(self._settings.ahead)

    async def _rest(self, until: Microseconds) -> None:
        """Wait until an instant, or until something has ended that makes a look worth while."""
        seconds = (until - self._clock.now()) / _SECOND
        if seconds > 0 and not self._wake.is_set():
            sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()
        else:
            await asyncio.sleep(0)
        self._wake.clear()

    async def _end(self, interrupted: bool) -> None:
        """Settle what is in flight, give back what was not admitted, and close. The database may fail: then others clean up."""
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running))
        await self._nouns.runner.close()
        run_id = self._run.run_id

        def end(connection: Connection) -> None:
            if interrupted:
                # One may have been admitted in the moment in which it was cancelled, before the runner knew of it.
                self._nouns.ledger.executions.abandon(connection, run_id, "the burst was cancelled")
            self._nouns.ticks.give_back(connection, run_id)
            self._nouns.bursts.close(connection, run_id)

        try:
            await self._mend()
            await self._write(lambda c: self._nouns.bursts.beat(c, run_id, in_flight=0, done=self.done, failed=self.failed))
            await self._write(end)
        except StorageError:
            pass
        await self.intake.close()

    async def _write(self, operation: Callable[[Connection], object]) -> None:
        await self._nouns.database.write(operation)


def _microseconds(seconds: float) -> int:
    return round(seconds * _SECOND)
