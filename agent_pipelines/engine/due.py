"""When a trigger of time is due: pure arithmetic, no clock.

Cron is read as Debian's cron reads it (library cronsim), in the trigger's zone:

- A day must match day of month *and* day of week if either field starts with a star, otherwise one of them.
- Clock set forward: a time that does not exist is due once, at the first instant after the gap.
- Clock set back: a time that exists twice is due at the first of the two. Fields of minutes or hours that start with a
  star count elapsed time instead: `0 * * * *` and `*/30 * * * *` are due in both of the hours.

Two times that a clock change moves to the same instant are one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from agent_pipelines.core.clock import Microseconds, from_microseconds, to_microseconds
from agent_pipelines.core.trigger import At, Cron, Interval, Trigger

_CLOCK_CHANGE = 4 * 3_600 * 1_000_000  # more than any clock change moves


def next_due(trigger: Trigger, after: Microseconds) -> Microseconds | None:
    """The first due instant later than `after`; None if there is none, as for a trigger that is not one of time."""
    return next(_later(trigger, after), None)


def last_due(trigger: Trigger, at: Microseconds) -> Microseconds | None:
    """The latest due instant that is not later than `at`; None if there is none."""
    match trigger:
        case Cron():
            return _last_of_cron(trigger, at)
        case Interval():
            every, offset = _microseconds(trigger.every), _microseconds(trigger.offset)
            return at - (at - offset) % every
        case At():
            return trigger.due_at if trigger.due_at <= at else None
        case _:
            return None


def due_between(trigger: Trigger, start: Microseconds, end: Microseconds) -> Iterator[Microseconds]:
    """The due instants later than `start` and not later than `end`, in order."""
    return takewhile(lambda instant: instant <= end, _later(trigger, start))


def _later(trigger: Trigger, after: Microseconds) -> Iterator[Microseconds]:
    match trigger:
        case Cron():
            yield from _cron(trigger, after)
        case Interval():
            every, offset = _microseconds(trigger.every), _microseconds(trigger.offset)
            instant = after - (after - offset) % every
            while True:
                instant += every
                yield instant
        case At() if trigger.due_at > after:
            yield trigger.due_at
        case _:
            return


def _cron(trigger: Cron, after: Microseconds) -> Iterator[Microseconds]:
    last = after
    for moment in CronSim(trigger.cron, from_microseconds(after).astimezone(_zone(trigger))):
        instant = _instant(moment)
        # cronsim steps in local time: where the clock is set back or forward it may repeat itself.
        if instant > last:
            last = instant
            yield instant


def _last_of_cron(trigger: Cron, at: Microseconds) -> Microseconds | None:
    # Going backwards, cronsim treats clock changes otherwise than going forwards. So it only says how far to go back.
    backwards = CronSim(trigger.cron, from_microseconds(at).astimezone(_zone(trigger)), reverse=True)
    earlier = [_instant(moment) for moment in islice(backwards, 3)]
    if not earlier:
        return at if next_due(trigger, at - 1) == at else None
    start = min(earlier) - _CLOCK_CHANGE
    return max(due_between(trigger, start, at), default=None)


def _instant(moment: datetime) -> Microseconds:
    return to_microseconds(moment.astimezone(UTC))


def _zone(trigger: Cron) -> tzinfo:
    # cronsim is faster, and without special cases, for this one object.
    return UTC if trigger.timezone == "UTC" else ZoneInfo(trigger.timezone)


def _microseconds(seconds: float) -> Microseconds:
    return round(seconds * 1_000_000)
