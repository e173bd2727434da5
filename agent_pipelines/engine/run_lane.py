"""Launching the ticks that get a run of their own."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

_log = logging.getLogger("agent_pipelines.run_lane")

_WORKERS = 4
_AT_ONCE = 200  # ticks in hand; the others keep waiting in the ledger
_FORGOTTEN = 30_000_000  # microseconds after which a tick whose run never came is launched by whoever sees it
_LOOK_FOR_FORGOTTEN = 10_000_000
_OPEN = 100_000  # ticks that are looked through; those whose runs stand in a long queue must not hide the others


class RunLane:
    """Gives each tick its run: the id is reserved in the ledger first, so that a launch can be repeated without a double.

    A tick whose launch was interrupted, by a crash or by a database that was away, is launched again under the same id: at once
    by the daemon that follows, which finds it at its first look.
    """

    def __init__(self, database: Database, ticks: Ticks, clock: Clock, gateway: Callable[[], DagsterGateway]) -> None:
        self._database = database
        self._ticks = ticks
        self._clock = clock
        self._gateway = gateway
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="agent-pipelines-launch")
        self._in_hand: set[str] = set()
        self._lock = threading.Lock()
        self._looked_for_forgotten: Microseconds | None = None

    def launch_due(self) -> int:
        """Put the runs of ticks that are to begin now into Dagster's queue, in the background; returns how many."""
        now = self._clock.now()
        limit = _AT_ONCE - len(self._in_hand)
        if limit <= 0:
            return 0
        with self._database.transaction() as connection:
            ready = self._ticks.take(connection, lane="run", until=now, limit=limit)
        self._hand_out(ready)
        return len(ready)

    def look_after(self) -> int:
        """Launch again, every ten seconds, what was given a run that never came; returns how many."""
        now = self._clock.now()
        last = self._looked_for_forgotten
        if last is not None and abs(now - last) < _LOOK_FOR_FORGOTTEN:  # a clock may be set back
            return 0
        self._looked_for_forgotten = now
        forgotten = self._forgotten(now, is_first=last is None)
        self._hand_out(forgotten)
        return len(forgotten)

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run, in the background."""
        self._pool.submit(self._cancel, run_id)

    def close(self) -> None:
        """Finish what is in hand."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forgotten(self, now: Microseconds, *, is_first: bool) -> list[Tick]:
        def is_late(tick: Tick) -> bool:
            # What the daemon before had in hand is in nobody's hands; who asks on demand launches in a process of his own.
            patience = 0 if is_first and tick.origin is not Origin.ON_DEMAND else _FORGOTTEN
            return max(tick.begins_at, tick.claimed_at) < now - patience and tick.id not in self._in_hand

        with self._database.reading() as connection:
            late = list(filter(is_late, self._ticks.open(connection, claimed_before=now, lane="run", limit=_OPEN)))
        gateway = self._gateway()
        return [tick for tick in late if tick.run_id is not None and not gateway.exists(tick.run_id)]

    def _hand_out(self, ready: Sequence[Tick]) -> None:
        for tick in ready:
            with self._lock:
                if tick.id in self._in_hand:
                    continue
                self._in_hand.add(tick.id)
            self._pool.submit(self._launch, tick)

    def _launch(self, tick: Tick) -> None:
        assert tick.run_id is not None
        try:
            job, launch, tags = launch_of(tick)
            self._gateway().launch(job, launch, run_id=tick.run_id, tags=tags)
        except DefinitionError as error:
            self._give_up(tick, str(error))
        except Exception as error:  # a database or code server that is away: it is tried again
            _log.warning("tick %s of %s is not launched yet: %s", tick.id, tick.path, redactor.text(str(error)))
        finally:
            with self._lock:
                self._in_hand.discard(tick.id)

    def _cancel(self, run_id: str) -> None:
        try:
            self._gateway().cancel(run_id)
        except Exception as error:  # what waits for its end waits for as long as it runs then
            _log.warning("run %s could not be cancelled: %s", run_id, redactor.text(str(error)))

    def _give_up(self, tick: Tick, reason: str) -> None:
        _log.warning("tick %s of %s cannot be launched: %s", tick.id, tick.path, redactor.text(reason))
        with self._database.transaction() as connection:
            self._ticks.decide(
                connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.LAUNCH_FAILED, reason=redactor.text(reason)
            )
