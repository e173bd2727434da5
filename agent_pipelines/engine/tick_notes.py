"""Dagster's own notes of what a schedule did at its time, so that its pages show each tick of ours."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence

from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.declarations import Declared, TriggerKey
from agent_pipelines.engine.tick import NewTick, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

_log = logging.getLogger("agent_pipelines.tick_notes")

_WAITING = 5_000  # ticks whose run is not known yet; older ones are noted without it
_PATIENCE = 30_000_000  # microseconds for the run of a tick to become known
_AT_ONCE = 200
_STATUS = {
    Verdict.RAN: TickStatus.SUCCESS,
    Verdict.DEDUPLICATED: TickStatus.SUCCESS,
    Verdict.SKIPPED: TickStatus.SKIPPED,
    Verdict.MISSED: TickStatus.SKIPPED,
    Verdict.LAUNCH_FAILED: TickStatus.FAILURE,
}


class TickNotes:
    """Writes a Dagster tick for each tick of a declared trigger, once its run or its verdict is known.

    They are a view for people; the ledger is the record. What a crash leaves unnoted stays so.
    """

    def __init__(self, instance: DagsterInstance, database: Database, ticks: Ticks, clock: Clock) -> None:
        self._instance = instance
        self._database = database
        self._ticks = ticks
        self._clock = clock
        self._waiting: deque[tuple[NewTick, Declared]] = deque(maxlen=_WAITING)

    def expect(self, claimed: Sequence[NewTick], declared: Mapping[TriggerKey, Declared]) -> None:
        """Remember ticks that were just claimed; those of registered tasks have no page of their own."""
        for tick in claimed:
            switch = declared.get((tick.task, tick.trigger))
            if switch is not None:
                self._waiting.append((tick, switch))

    def write(self) -> int:
        """Note those that can be noted; returns how many."""
        looked_at = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
        if not looked_at:
            return 0
        with self._database.reading() as connection:
            stored = self._ticks.by_ids(connection, [tick.id for tick, _ in looked_at])
        noted = 0
        for expected, declared in looked_at:
            tick = stored.get(expected.id)
            if tick is None:
                continue
            is_known = tick.verdict is not None or (tick.run_id is not None and tick.lane == "run")
            if not is_known and tick.claimed_at > self._clock.now() - _PATIENCE:
                self._waiting.append((expected, declared))
                continue
            self._note(tick, declared)
            noted += 1
        return noted

    def _note(self, tick: Tick, declared: Declared) -> None:
        status = TickStatus.SUCCESS if tick.verdict is None else _STATUS[tick.verdict]
        instigator = declared.instigator
        try:
            self._instance.create_tick(
                TickData(
                    instigator_origin_id=instigator.get_remote_origin_id(),
                    instigator_name=instigator.name,
                    instigator_type=InstigatorType.SCHEDULE if hasattr(instigator, "cron_schedule") else InstigatorType.SENSOR,
                    status=status,
                    timestamp=tick.due_at / 1_000_000,
                    end_timestamp=max(self._clock.now(), tick.due_at) / 1_000_000,
                    run_ids=[tick.run_id] if tick.run_id is not None and status is TickStatus.SUCCESS else [],
                    skip_reason=redactor.text(f"{tick.verdict}: {tick.reason}") if status is TickStatus.SKIPPED else None,
                    selector_id=instigator.selector_id,
                )
            )
        except Exception as error:  # Dagster's storage may be away; the record does not depend on it
            _log.warning("the tick of %s is not shown in Dagster: %s", instigator.name, redactor.text(str(error)))
