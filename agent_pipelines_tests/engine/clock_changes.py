"""A slow second reading of the rules of `core.cron`, by enumeration; it shares no code with the first.

It walks over the instants around a clock change, reads through zoneinfo what the clock of the zone shows, and applies the rules
as they are written.
"""

import calendar
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400
_NAMES = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_NAMES |= {name.lower(): number % 7 for number, name in enumerate(calendar.day_abbr, 1)}


@dataclass(frozen=True)
class Change:
    """The last second before a clock is set, and by how much it is set forward."""

    zone: str
    at: int
    by: int

    def __str__(self) -> str:
        return f"{self.zone} {datetime.fromtimestamp(self.at, UTC):%Y-%m-%dT%H:%M:%SZ} {self.by:+d}"

    @property
    def hour(self) -> int:
        """The hour that is left out or shown twice."""
        shown = self.at + 1 + offset_at(self.zone, self.at) + min(self.by, 0)
        return shown // 3_600 % 24


@dataclass(frozen=True)
class Walk:
    """Instants in order and what the clock shows at each, as seconds since it showed 1970-01-01 00:00:00."""

    instants: Sequence[int]
    shown: Sequence[int]
    step: int

    @classmethod
    def around(cls, change: Change, hours: int, *, step: int) -> "Walk":
        start, end = (change.at + 1 + sign * hours * 3_600 for sign in (-1, 1))
        instants = range(start - start % step, end, step)
        return cls(instants, [instant + offset_at(change.zone, instant) for instant in instants], step)

    @property
    def days(self) -> Sequence[int]:
        return range(min(self.shown) // _DAY, max(self.shown) // _DAY + 1)


@dataclass(frozen=True)
class Reading:
    """A cron expression, seconds first, as this model reads it."""

    text: str
    _of_day: dict[int, frozenset[int]] = field(default_factory=dict)

    def due(self, walk: Walk) -> list[int]:
        """The instants of a walk, without its first, at which the expression is due."""
        _, minute, hour, *_ = self.text.split()
        named = {day * _DAY + second for day in walk.days if self.names_day(day) for second in self._seconds(walk.step)}
        if minute.startswith("*") or hour.startswith("*"):
            pairs = zip(walk.instants[1:], walk.shown[1:], strict=True)
            return [instant for instant, shown in pairs if shown in named]
        return list(self._first_shown(walk, named))

    def _first_shown(self, walk: Walk, named: set[int]) -> Iterator[int]:
        latest = walk.shown[0]
        for instant, shown in zip(walk.instants[1:], walk.shown[1:], strict=True):
            if shown <= latest:
                continue
            if shown in named or (shown - latest > walk.step and not named.isdisjoint(range(latest + 1, shown))):
                yield instant
            latest = shown

    def _seconds(self, step: int) -> frozenset[int]:
        if step not in self._of_day:
            seconds, minutes, hours = (
                values(text, low, high)
                for text, (low, high) in zip(self.text.split()[:3], ((0, 59), (0, 59), (0, 23)), strict=True)
            )
            self._of_day[step] = frozenset(
                second
                for second in range(0, _DAY, step)
                if second // 3_600 in hours and second // 60 % 60 in minutes and second % 60 in seconds
            )
        return self._of_day[step]

    def names_day(self, number: int) -> bool:
        return _names_day(self.text, number)


@cache
def _names_day(text: str, number: int) -> bool:
    day_of_month, month, day_of_week = text.split()[3:]
    day = (_EPOCH + timedelta(days=number)).date()
    if day.month not in values(month, 1, 12):
        return False
    both = (_is_in_month(day_of_month, day), _is_in_week(day_of_week, day))
    return all(both) if day_of_month.startswith("*") or day_of_week.startswith("*") else any(both)


def _is_in_month(text: str, day: date) -> bool:
    if text.endswith("L"):
        others, _, _ = text.rpartition(",")
        return (day + timedelta(days=1)).day == 1 or (bool(others) and _is_in_month(others, day))
    return day.day in values(text, 1, 31)


def _is_in_week(text: str, day: date) -> bool:
    if "#" in text:
        name, _, count = text.partition("#")
        return day.isoweekday() % 7 == _number(name) and (day.day - 1) // 7 + 1 == int(count)
    if text.endswith("L"):
        return day.isoweekday() % 7 == _number(text[:-1]) and (day + timedelta(days=7)).month != day.month
    return bool({day.isoweekday(), day.isoweekday() % 7} & values(text, 0, 7))


@cache
def values(text: str, low: int, high: int) -> frozenset[int]:
    """The numbers that a field of lists, ranges and steps names."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        until = _number(last) if last else high if step else _number(first)
        found.update(range(_number(first), until + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str) -> int:
    return _NAMES[text.lower()] if text.lower() in _NAMES else int(text)


def offset_at(zone: str, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, _zone(zone)).utcoffset()
    assert offset is not None
    return offset.days * _DAY + offset.seconds


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def changes_of(zone: str, start: int, end: int) -> list[Change]:
    """The clock changes of a zone; no two of them lie within three days."""
    found: list[Change] = []
    for day in range(start, end, _DAY):
        before, after = offset_at(zone, day), offset_at(zone, day + _DAY)
        if before != after:
            length = bisect_right(range(_DAY), 0, key=lambda second: int(offset_at(zone, day + second) != before))
            found.append(Change(zone, day + length - 1, after - before))
    return found


def rules_of_all_zones(start: int, end: int) -> dict[str, list[Change]]:
    """One zone of each set of rules that any zones of the database share between two instants, with its clock changes."""
    first_with: dict[tuple[object, ...], str] = {}
    changes = {zone: changes_of(zone, start, end) for zone in sorted(available_timezones())}
    for zone, found in changes.items():
        rules = (offset_at(zone, start), *((change.at, change.by) for change in found))
        first_with.setdefault(rules, zone)
    return {zone: changes[zone] for zone in first_with.values()}
