"""The witness: expects every tick by a reading of its own, and closes the books of a period."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from operator import attrgetter, itemgetter
from typing import Any

from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.execution import FINAL, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.core.trigger import After, At, Cron, Event, Interval, TimeTrigger, Trigger
from agent_pipelines.engine.inbox import Inbox, InboxEvent
from agent_pipelines.engine.tick import CARRY_ON, DueTick, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.trigger_history import OnPeriod
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.insight.books import MANY, Account, Books, Gap
from agent_pipelines.insight.second_reading import due_instants
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.store.database import Connection, Database

PATIENCE = 600.0
"""Seconds that a tick may be without a verdict after it was to begin."""

SETTLING = 5.0
"""Seconds after which an instant that was due must have its tick."""

_WATCHING = 120.0  # the same for what sensors find: they look in turns, and at a limited number at a time
_PAGE = 500

Key = tuple[TaskKey, str]
"""Task and name of a trigger."""

Expectation = tuple[Microseconds, Sequence[Key]]


class Witness:
    """Compares the ticks with what was to be expected.

    Which triggers were on is told by their history, when those of time were due by `due_instants`. A trigger of events owes a
    tick to each event that matches and came while it was on; one that follows another task, to each tick of that task that was
    due while it was on. What is due because an asset was updated or somebody asked cannot be expected: it counts as found.
    """

    def __init__(
        self,
        database: Database,
        triggers: Triggers,
        ticks: Ticks,
        inbox: Inbox,
        executions: Executions,
        clock: Clock,
        *,
        patience: float = PATIENCE,
        settling: float = SETTLING,
    ) -> None:
        self._database = database
        self._triggers = triggers
        self._ticks = ticks
        self._inbox = inbox
        self._executions = executions
        self._clock = clock
        self._patience = _microseconds(patience)
        self._settling = _microseconds(settling)

    def books(
        self,
        since: Microseconds,
        until: Microseconds | None = None,
        *,
        workspace: str | None = None,
        application: str | None = None,
        task: str | None = None,
    ) -> Books:
        """The books of what was due later than `since` and not later than `until`, which is now if it is not given."""
        now = self._clock.now()
        until = now if until is None else min(until, now)
        chosen: dict[str, Any] = {"workspace": workspace, "application": application, "task": task}
        with self._database.reading() as connection:
            periods = list(self._triggers.history.on_periods(connection, since=since, until=until, **chosen))
            audit = _Audit(periods, now, self._patience, lambda key: self._triggers.history.known_since(connection, *key))
            ticks = self._ticks.due(connection, after=since, until=until, **chosen)
            settled = now - self._settling
            for instant, keys, found in _side_by_side(_expected(periods, since, until), ticks):
                audit.compare(instant, keys, found, is_settled=instant <= settled)
            for period in self._with_events(connection, periods, since, until):
                for event in self._unclaimed(connection, period, since, until):
                    audit.lack(_key(period), event.received_at, is_settled=event.received_at <= now - _microseconds(_WATCHING))
            for period in periods:
                if isinstance(period.definition, After):
                    for due_at, ready_at in self._unfollowed(connection, period, period.definition, since, until):
                        if ready_at > now - _microseconds(_WATCHING):
                            audit.lack(_key(period), due_at, is_settled=False)
                        elif period.until is None or ready_at <= period.until:
                            audit.lack(_key(period), due_at, is_settled=True)
        return Books(since, until, now, len({_key(period) for period in periods}), audit.in_order(), audit.gaps)

    def _with_events(
        self, connection: Connection, periods: Sequence[OnPeriod], since: Microseconds, until: Microseconds
    ) -> Iterator[OnPeriod]:
        """The periods of triggers of events in which there may have been one."""
        of_events = [(period, period.definition.event) for period in periods if isinstance(period.definition, Event)]
        came = self._inbox.types(connection, since=since, until=until) if of_events else set[tuple[str, str]]()
        yield from (period for period, event in of_events if (period.task_key[0], event) in came)

    def _unclaimed(
        self, connection: Connection, period: OnPeriod, since: Microseconds, until: Microseconds
    ) -> Iterator[InboxEvent]:
        """The events of a period that match and have no tick."""
        assert isinstance(period.definition, Event)
        first, last = max(since, period.after), until if period.until is None else min(until, period.until)
        beyond: InboxEvent | None = None
        while True:
            page = self._inbox.unclaimed(
                connection,
                period.task_key,
                period.trigger,
                period.definition.event,
                since=first + 1,
                beyond=beyond,
                limit=_PAGE,
            )
            for event in page:
                if event.received_at > last:
                    return
                if _match(period.definition.match, event.payload):
                    yield event
            if len(page) < _PAGE:
                return
            beyond = page[-1]

    def _unfollowed(
        self, connection: Connection, period: OnPeriod, trigger: After, since: Microseconds, until: Microseconds
    ) -> Iterator[tuple[Microseconds, Microseconds]]:
        """Of each upstream tick of a period that nobody followed: when the follower was due, and when it had to be decided."""
        workspace, application, _ = period.task_key
        of_application, slash, name = trigger.task.partition("/")
        upstream = (workspace, of_application, name) if slash else (workspace, application, trigger.task)
        offset = _microseconds(trigger.offset)
        first, last = max(since - offset, period.after), until - offset
        last = last if period.until is None else min(last, period.until)
        seq = 0
        while True:
            page = self._ticks.unfollowed(
                connection, upstream, period.task_key, period.trigger, due_from=first + 1, after=seq, limit=_PAGE
            )
            for tick in page:
                if tick.due_at <= last:
                    yield tick.due_at + offset, self._ready_at(connection, trigger, tick, tick.due_at + offset)
            if len(page) < _PAGE:
                return
            seq = page[-1].seq

    def _ready_at(self, connection: Connection, trigger: After, upstream: Tick, due_at: Microseconds) -> Microseconds:
        """When a follower has to have its tick: once its upstream is final, or when it has waited long enough.

        Of a failed upstream that may be repaired only the latter is known here.
        """
        final_at: Microseconds | None = None
        if upstream.verdict in (Verdict.SKIPPED, Verdict.MISSED):
            final_at = upstream.decided_at
        elif upstream.execution_id is not None:
            execution = self._executions.get(connection, upstream.execution_id)
            if execution is None:
                final_at = upstream.decided_at
            elif execution.status in FINAL and (execution.status in ("succeeded", "skipped") or not trigger.repair):
                final_at = execution.finished_at
        if final_at is not None:
            return max(due_at, final_at)
        return max(due_at, upstream.claimed_at) + _microseconds(trigger.wait_at_most)


class _Audit:
    """The accounts while they are being written."""

    def __init__(
        self,
        periods: Sequence[OnPeriod],
        now: Microseconds,
        patience: Microseconds,
        known_since: Callable[[Key], Microseconds | None],
    ) -> None:
        self._now = now
        self._patience = patience
        self._known_since = known_since
        self._known: dict[Key, Microseconds | None] = {}
        self._accounts: dict[Key, Account] = {}
        self._silent: dict[Key, Gap | None] = {}  # the gap that each trigger is in; None if it is in one that is only counted
        self._kinds: dict[Key, str] = {}
        self._periods: dict[Key, list[OnPeriod]] = defaultdict(list)  # of the triggers that are not of time
        self.gaps: list[Gap] = []
        for period in periods:
            self._kinds[_key(period)] = period.definition.kind
            if not isinstance(period.definition, TimeTrigger):
                self._periods[_key(period)].append(period)

    def compare(self, instant: Microseconds, expected: Sequence[Key], ticks: Sequence[DueTick], *, is_settled: bool) -> None:
        """Enter what was due at one instant: the triggers of time that are expected, and all ticks that are there."""
        missing = dict.fromkeys(expected)
        found: set[Key] = set()
        for tick in ticks:
            key = ((tick.workspace, tick.application, tick.task), tick.trigger)
            if key in found:
                self._accounts[key].doubles += 1
            elif key in missing:
                found.add(key)
                del missing[key]
                self._silent.pop(key, None)
                self._enter(self._account(key), tick)
            else:
                self._enter_unexpected(key, tick)
        for key in missing:
            self.lack(key, instant, is_settled=is_settled)

    def lack(self, key: Key, instant: Microseconds, *, is_settled: bool) -> None:
        """Enter that a trigger was due and has no tick."""
        account = self._account(key)
        if not is_settled:
            account.not_yet += 1
            return
        account.due += 1
        account.gaps += 1
        gap = self._silent.get(key)
        if gap is not None:
            gap.last, gap.instants = max(gap.last, instant), gap.instants + 1
        elif len(self.gaps) < MANY:
            gap = Gap(*key, first=instant, last=instant)
            self.gaps.append(gap)
            self._silent[key] = gap

    def in_order(self) -> Sequence[Account]:
        """The accounts, by task and trigger."""
        return sorted(self._accounts.values(), key=lambda account: (account.task_key, account.trigger))

    def _enter(self, account: Account, tick: DueTick) -> None:
        account.due += 1
        if tick.verdict is not None:
            account.verdicts[tick.verdict] = account.verdicts.get(tick.verdict, 0) + 1
            return
        account.open += 1
        waiting_since = max(tick.begins_at, tick.claimed_at)
        account.open_since = min(waiting_since, account.open_since or waiting_since)
        # One that is queued waits for another one, however long that takes.
        if tick.waits_for is None and waiting_since < self._now - self._patience:
            account.overdue += 1

    def _enter_unexpected(self, key: Key, tick: DueTick) -> None:
        account = self._account(key, tick.origin)
        if self._is_due_by_what_happened(key, tick):
            self._enter(account, tick)
        elif tick.trigger in CARRY_ON or tick.origin not in _EXPECTED or not self._was_known(key, tick.due_at):
            account.found += 1
            self._enter(account, tick)
        else:
            account.extras += 1

    def _is_due_by_what_happened(self, key: Key, tick: DueTick) -> bool:
        """Whether it is the tick of an event, or of another task, while its trigger was on."""
        for period in self._periods.get(key, ()):
            match period.definition:
                case Event() if period.after < tick.due_at and (period.until is None or tick.due_at <= period.until):
                    return True
                case After() if period.after < tick.due_at:  # its upstream was due before, or at some other time in a rehearsal
                    return True
                case _:
                    pass
        return False

    def _was_known(self, key: Key, at: Microseconds) -> bool:
        """Whether the history of the trigger had begun; what was due before is Dagster's own."""
        if key not in self._known:
            self._known[key] = self._known_since(key)
        since = self._known[key]
        return since is not None and since < at

    def _account(self, key: Key, origin: str = Origin.SCHEDULE) -> Account:
        """The account of a trigger; one that has no history is called by the origin of its ticks."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(*key, self._kinds.get(key, origin))
        return account


_EXPECTED = frozenset({Origin.SCHEDULE, Origin.EVENT, Origin.AFTER})


def _expected(periods: Iterable[OnPeriod], since: Microseconds, until: Microseconds) -> Iterator[Expectation]:
    """The instants at which triggers of time were due, in order, each with some of the triggers.

    Triggers that are due at the same instants are enumerated once: of many there are few kinds.
    """
    alike: dict[tuple[object, Microseconds, Microseconds], tuple[Trigger, list[Key]]] = {}
    for period in periods:
        after = max(since, period.after)
        last = until if period.until is None else min(until, period.until)
        rhythm = _rhythm(period.definition)
        if rhythm is not None and after < last:
            alike.setdefault((rhythm, after, last), (period.definition, []))[1].append(_key(period))
    streams = (zip(due_instants(definition, after, last), repeat(keys)) for (_, after, last), (definition, keys) in alike.items())
    return heapq.merge(*streams, key=itemgetter(0))


def _rhythm(trigger: Trigger) -> object:
    """What two triggers have in common that are due at the same instants; None for one that is not of time."""
    match trigger:
        case Cron():
            return trigger.fields, trigger.timezone, trigger.bounds
        case Interval():
            return trigger.every, trigger.offset, trigger.bounds
        case At():
            return trigger.due_at, trigger.bounds
        case _:
            return None


def _side_by_side(
    expected: Iterator[Expectation], ticks: Iterator[DueTick]
) -> Iterator[tuple[Microseconds, list[Key], list[DueTick]]]:
    """Both in order of their instants, instant by instant: never more than those of one instant at a time."""
    wanted: Iterator[tuple[Microseconds, Iterator[Expectation]]] = groupby(expected, key=itemgetter(0))
    given: Iterator[tuple[Microseconds, Iterator[DueTick]]] = groupby(ticks, key=attrgetter("due_at"))
    left, right = next(wanted, None), next(given, None)
    while left is not None or right is not None:
        instant = min(each[0] for each in (left, right) if each is not None)
        keys: list[Key] = []
        found: list[DueTick] = []
        if left is not None and left[0] == instant:
            keys = [key for _, some in left[1] for key in some]
            left = next(wanted, None)
        if right is not None and right[0] == instant:
            found = list(right[1])
            right = next(given, None)
        yield instant, keys, found


def _key(period: OnPeriod) -> Key:
    return period.task_key, period.trigger


def _match(wanted: Mapping[str, JsonValue], payload: Mapping[str, JsonValue]) -> bool:
    """Whether a payload has these values; true is not 1."""
    return all(
        name in payload and (payload[name], isinstance(payload[name], bool)) == (value, isinstance(value, bool))
        for name, value in wanted.items()
    )


def _microseconds(seconds: float) -> Microseconds:
    return round(seconds * 1_000_000)
