"""When a trigger of time is due, found a second way.

The clock computes the next due instant; this enumerates the minutes of UTC and asks of each what the fields say about the time on
the wall. It shares no code with the clock, so a mistake of one is not a mistake of both.

What is to be found is written in `core.cron`: an expression whose minutes or hours begin with a star is due at each instant that
matches; any other one when a time that it names is first shown, and at the end of the gap if the time is left out.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.trigger import At, Cron, Interval, Trigger
from agent_pipelines.insight.cron_fields import CronFields
from agent_pipelines.insight.zone_days import DAY, Minutes, zone_day

_SECOND = 1_000_000


def due_instants(trigger: Trigger, after: Microseconds, until: Microseconds) -> Iterator[Microseconds]:
    """The instants later than `after` and not later than `until` at which a trigger of time is due, in order."""
    if not isinstance(trigger, Cron | Interval | At):
        return
    first, last = trigger.bounds
    after = after if first is None else max(after, first - 1)
    until = until if last is None else min(until, last)
    match trigger:
        case At():
            if after < trigger.due_at <= until:
                yield trigger.due_at
        case Interval():
            every, offset = round(trigger.every * _SECOND), round(trigger.offset * _SECOND)
            before = (after - offset) // every  # so many have passed since 1970
            yield from range(offset + (before + 1) * every, until + 1, every)
        case Cron():
            for second in _cron(trigger.fields, trigger.timezone, after // _SECOND, until // _SECOND):
                yield second * _SECOND


def _cron(fields: Sequence[str], zone: str, after: int, until: int) -> Iterator[int]:
    seconds = _read(tuple(fields)).seconds
    for day in range(after // DAY, until // DAY + 1):
        minutes, ends_of_gaps = _of_day(tuple(fields), zone, day)
        if ends_of_gaps:
            instants = sorted({minute + second for minute in minutes for second in seconds} | ends_of_gaps)
        else:
            instants = (minute + second for minute in minutes for second in seconds)
        for instant in instants:
            if instant > until:
                return
            if instant > after:
                yield instant


@lru_cache(maxsize=16_384)
def _of_day(fields: tuple[str, ...], zone: str, day: int) -> tuple[Sequence[int], frozenset[int]]:
    """The minutes of a UTC day in which the expression is due, and the ends of gaps at which it is due besides."""
    read, minutes = _read(fields), zone_day(zone, day)
    if read.counts_time:
        return sorted(_matching(read, minutes.passing)), frozenset()
    return sorted(_matching(read, minutes.shown)), frozenset(_matching(read, minutes.left_out))


def _matching(fields: CronFields, minutes: Minutes) -> Iterator[int]:
    for day, hours in minutes.items():
        if not fields.mean(day):
            continue
        for hour, of_hour in hours.items():
            if hour in fields.hours:
                yield from (instant for minute, instant in of_hour if minute in fields.minutes)


@lru_cache(maxsize=16_384)
def _read(fields: tuple[str, ...]) -> CronFields:
    return CronFields.read(fields)
