"""When a trigger of time is due, and when what is due begins: pure arithmetic, no clock.

How cron is read, and what becomes of it when clocks change, is written down in `core.cron`. An interval is counted from
1970-01-01T00:00:00Z plus its offset. `starts_at` and `ends_at` bound what is due, both included.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC
from itertools import takewhile
from zoneinfo import ZoneInfo

from agent_pipelines.core.clock import Microseconds, from_microseconds
from agent_pipelines.core.trigger import At, Cron, Interval, TimeTrigger, Trigger

_SECOND = 1_000_000
_MILLISECOND = 1_000


def next_due(trigger: Trigger, after: Microseconds) -> Microseconds | None:
    """The first due instant later than `after`; None if there is none, as for a trigger that is not one of time."""
    return next(due_after(trigger, after), None)


def last_due(trigger: Trigger, at: Microseconds) -> Microseconds | None:
    """The latest due instant that is not later than `at`; None if there is none."""
    if not isinstance(trigger, Cron | Interval | At):
        return None
    starts, ends = trigger.bounds
    instant = _latest(trigger, at if ends is None else min(at, ends))
    return None if instant is None or (starts is not None and instant < starts) else instant


def due_between(trigger: Trigger, start: Microseconds, end: Microseconds) -> Iterator[Microseconds]:
    """The due instants later than `start` and not later than `end`, in order."""
    return takewhile(lambda instant: instant <= end, due_after(trigger, start))


def due_after(trigger: Trigger, after: Microseconds) -> Iterator[Microseconds]:
    """The due instants later than `after`, in order; endless unless the trigger is not."""
    if not isinstance(trigger, Cron | Interval | At):
        return iter(())
    starts, ends = trigger.bounds
    found = _later(trigger, after if starts is None else max(after, starts - 1))
    return found if ends is None else takewhile(lambda instant: instant <= ends, found)


def begins_at(trigger: Trigger, task_path: str, due_at: Microseconds) -> Microseconds:
    """When the tick that is due at `due_at` is to begin: `spread` and `jitter` later, the same on all machines."""
    if not isinstance(trigger, TimeTrigger):
        return due_at
    spread = _part_of(trigger.spread, task_path) if trigger.spread else 0
    jitter = _part_of(trigger.jitter, f"{task_path}@{due_at}") if trigger.jitter else 0
    return due_at + spread + jitter


def reason_not_to_run(trigger: Trigger, due_at: Microseconds) -> str | None:
    """Why the trigger's calendar leaves out the day of a due instant; None if it does not.

    The day is that of the trigger's zone; of an interval or a single instant, which have none, that of UTC.
    """
    if not isinstance(trigger, TimeTrigger) or trigger.calendar is None:
        return None
    zone = ZoneInfo(trigger.timezone) if isinstance(trigger, Cron) else UTC
    return trigger.calendar.reason_not_to_run(from_microseconds(due_at).astimezone(zone).date())


def _later(trigger: Cron | Interval | At, after: Microseconds) -> Iterator[Microseconds]:
    match trigger:
        case Cron():
            for instant in trigger.times.after(after // _SECOND):
                yield instant * _SECOND
        case Interval():
            every, offset = _microseconds(trigger.every), _microseconds(trigger.offset)
            instant = after - (after - offset) % every
            while True:
                instant += every
                yield instant
        case At():
            if trigger.due_at > after:
                yield trigger.due_at


def _latest(trigger: Cron | Interval | At, at: Microseconds) -> Microseconds | None:
    match trigger:
        case Cron():
            instant = trigger.times.latest(at // _SECOND)
            return None if instant is None else instant * _SECOND
        case Interval():
            every, offset = _microseconds(trigger.every), _microseconds(trigger.offset)
            return at - (at - offset) % every
        case At():
            return trigger.due_at if trigger.due_at <= at else None


def _part_of(length: float, of: str) -> Microseconds:
    """A whole number of milliseconds below a length, by a hash."""
    digest = hashlib.blake2b(of.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") * round(length * 1_000) >> 64) * _MILLISECOND


def _microseconds(seconds: float) -> Microseconds:
    return round(seconds * _SECOND)
