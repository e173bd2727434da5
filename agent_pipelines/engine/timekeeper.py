"""Claiming what is due, for all triggers of time, each instant once."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock, Microseconds, isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import TimeTrigger
from agent_pipelines.engine.planner import INSTANTS, AtWork, Plan, plan
from agent_pipelines.engine.tick import NewTick, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.triggers import StoredTrigger, Triggers
from agent_pipelines.store.database import Database

AHEAD = 1_000_000
"""Microseconds by which ticks of bursts are claimed ahead, so that a burst has them in hand when they are due."""

_TRIGGERS = 2_000  # that one look decides about
_OVERLAP = "overlap: the tick before it was still at work when it was due"
_TICKS = 10_000  # that one look claims, or a few more: after a long time away there may be millions


class Unfinished(Protocol):
    """An execution that runs or waits, as far as the timekeeper asks about it."""

    @property
    def id(self) -> str: ...
    @property
    def task_key(self) -> TaskKey: ...
    @property
    def trigger(self) -> str: ...
    @property
    def occurrence(self) -> str: ...
    @property
    def due_at(self) -> Microseconds: ...
    @property
    def run_id(self) -> str: ...


class UnfinishedExecutions(Protocol):
    """What the timekeeper asks of the record of executions."""

    def unfinished(self, connection: sa.Connection) -> Sequence[Unfinished]: ...

    def cancel(self, connection: sa.Connection, execution_id: str, reason: str) -> bool: ...


@dataclass(frozen=True)
class Look:
    """What one look has claimed: ticks that are to begin, ticks that have their verdict, and runs that are to make way.

    `is_behind` says that there was more than one look decides about.
    """

    claimed: list[NewTick] = field(default_factory=list[NewTick])
    decided: list[NewTick] = field(default_factory=list[NewTick])
    replaced_runs: list[str] = field(default_factory=list[str])
    went_ahead: int = 0
    is_behind: bool = False


@dataclass(frozen=True)
class Following:
    """What there is to do next: when something is to be claimed, when the first tick is to begin that waits for a run of its own,
    and whether any tick is queued behind another one, so that a look is worth while at any time."""

    due_at: Microseconds | None
    begins_at: Microseconds | None
    is_queued: bool

    @property
    def at(self) -> Microseconds | None:
        """When there is something to do; None if nobody knows."""
        return min((instant for instant in (self.due_at, self.begins_at) if instant is not None), default=None)

    def asks_for_look(self, now: Microseconds) -> bool:
        """Whether something is to be claimed, or may go ahead."""
        return self.is_queued or (self.due_at is not None and self.due_at <= now)


class Timekeeper:
    """Looks at what is due and claims it, in one transaction a look.

    Any number may look at once: the unique key of the ticks decides who claims, and who comes second claims nothing. A clock
    that is set back makes nothing due again, one that is set forward makes instants late, which `catch_up` decides about.
    """

    def __init__(
        self, database: Database, triggers: Triggers, ticks: Ticks, executions: UnfinishedExecutions, clock: Clock
    ) -> None:
        self._database = database
        self._triggers = triggers
        self._ticks = ticks
        self._executions = executions
        self._clock = clock

    def look(self) -> Look:
        """Claim what is due now, and let queued ticks begin whose predecessor is final."""
        now = self._clock.now()
        with self._database.reading() as connection:
            due = self._triggers.due(connection, run_until=now, burst_until=now + AHEAD, limit=_TRIGGERS)
            waiting = self._ticks.waiting(connection)
            finished = self._finished(connection, waiting)
            overlapping = [tick for tick in waiting if _is_to_be_skipped(tick, now) and tick.waits_for not in finished]
            at_work = self._at_work(connection, due, leaving_out={tick.id for tick in overlapping})
        if not due and not finished and not overlapping:
            return Look()
        plans: list[Plan] = []
        new: list[NewTick] = []
        for trigger in due:
            if len(new) >= _TICKS:
                break
            plans.append(self._plan(trigger, now, at_work))
            new += plans[-1].ticks
        with self._database.transaction() as connection:
            # One that was edited or switched off since it was read claims nothing by what it was.
            unmoved = self._triggers.unmoved(connection, [each.move.trigger for each in plans])
            plans = [each for each in plans if each.move.trigger.seq in unmoved]
            new = [tick for each in plans for tick in each.ticks]
            ids = self._ticks.claim_many(connection, new)
            self._triggers.advance(connection, (each.move for each in plans))
            runs = [run for each in plans for run in self._make_way(connection, each, ids)]
            went_ahead = self._ticks.go_ahead(connection, sorted(finished))
            for tick in overlapping:
                self._skip(connection, tick.task_key, tick.trigger, tick.occurrence, _OVERLAP)
        claimed = [tick for tick in new if tick.id in ids]
        return Look(
            claimed=[tick for tick in claimed if tick.verdict is None],
            decided=[tick for tick in claimed if tick.verdict is not None],
            replaced_runs=runs,
            went_ahead=went_ahead,
            is_behind=len(due) == _TRIGGERS or len(plans) < len(due) or any(len(each.ticks) == INSTANTS for each in plans),
        )

    def following(self, within: Microseconds = AHEAD) -> Following:
        """What there is to do within a while; what is later is not looked for."""
        with self._database.reading() as connection:
            first = self._triggers.first_due(connection, until=self._clock.now() + within + AHEAD)
            begins_at, is_queued = self._ticks.standing(connection)
        instants = [at - AHEAD if lane == "burst" else at for lane, at in first.items()]
        return Following(min(instants, default=None), begins_at, is_queued)

    def _plan(self, trigger: StoredTrigger, now: Microseconds, at_work: dict[tuple[TaskKey, str], list[AtWork]]) -> Plan:
        until = now + AHEAD if trigger.lane == "burst" else now
        return plan(trigger, now=now, until=until, at_work=at_work.get((trigger.task_key, trigger.trigger), ()))

    def _at_work(
        self, connection: sa.Connection, due: Sequence[StoredTrigger], *, leaving_out: Collection[str]
    ) -> dict[tuple[TaskKey, str], list[AtWork]]:
        """The ticks that are not final of those triggers that must not overlap."""
        alone = {
            (trigger.task_key, trigger.trigger)
            for trigger in due
            if isinstance(trigger.definition, TimeTrigger) and trigger.definition.overlap != "parallel"
        }
        found: dict[tuple[TaskKey, str], list[AtWork]] = defaultdict(list)
        if not alone:
            return found
        # Ticks first: what is admitted between the two readings is then in both of them, and not in neither.
        unfinished = self._ticks.unfinished(connection, [trigger.seq for trigger in due])
        running = {(each.task_key, each.trigger, each.occurrence): each for each in self._executions.unfinished(connection)}
        for tick in unfinished:
            if (tick.task_key, tick.trigger) in alone and tick.id not in leaving_out:
                running.pop((tick.task_key, tick.trigger, tick.occurrence), None)
                found[tick.task_key, tick.trigger].append(_of_tick(tick))
        for each in running.values():
            if (each.task_key, each.trigger) in alone:
                tick = self._ticks.find(connection, each.task_key, each.trigger, each.occurrence)
                if tick is not None:
                    words = f"execution {each.id} of the tick of {isoformat(each.due_at)} is at work"
                    found[each.task_key, each.trigger].append(AtWork(tick.id, each.due_at, words, each.run_id, each.id))
        for line in found.values():
            line.sort(key=lambda each: each.due_at)
        return found

    def _finished(self, connection: sa.Connection, waiting: Sequence[Tick]) -> set[str]:
        """The ids that ticks wait for and that are final or gone."""
        ids = sorted({tick.waits_for for tick in waiting if tick.waits_for is not None})
        if not ids:
            return set()
        known = self._ticks.by_ids(connection, ids)
        running = {each.id for each in self._executions.unfinished(connection)}

        def is_final(tick_id: str) -> bool:
            tick = known.get(tick_id)
            return tick is None or (tick.verdict is not None and tick.execution_id not in running)

        return {tick_id for tick_id in ids if is_final(tick_id)}

    def _make_way(self, connection: sa.Connection, planned: Plan, ids: set[str]) -> list[str]:
        """End what is replaced; returns the runs that are to be cancelled."""
        if not any(tick.id in ids for tick in planned.ticks):
            return []
        runs: list[str] = []
        trigger = planned.move.trigger
        for each in planned.replaced:
            reason = f"replaced by the tick of {isoformat(planned.ticks[-1].due_at)}"
            if each.execution_id is None and (each.run_id is None or trigger.lane == "run"):
                self._skip(connection, trigger.task_key, trigger.trigger, str(each.due_at), reason)
            elif each.execution_id is not None and trigger.lane == "burst":
                self._executions.cancel(connection, each.execution_id, reason)
            if each.run_id is not None and trigger.lane == "run":
                runs.append(each.run_id)
        return runs

    def _skip(self, connection: sa.Connection, task: TaskKey, trigger: str, occurrence: str, reason: str) -> None:
        self._ticks.decide(connection, task, trigger, occurrence, Verdict.SKIPPED, reason=reason)


def _is_to_be_skipped(tick: Tick, now: Microseconds) -> bool:
    """Whether a queued tick was claimed ahead of an instant that has come, and does not wait any longer than that."""
    return tick.due_at <= now and tick.inputs.get("overlap") == "skip"


def _of_tick(tick: Tick) -> AtWork:
    state = "is queued" if tick.waits_for else "waits for a run" if tick.run_id is None else f"waits for its run {tick.run_id}"
    return AtWork(tick.id, tick.due_at, f"the tick of {isoformat(tick.due_at)} {state}", tick.run_id)
