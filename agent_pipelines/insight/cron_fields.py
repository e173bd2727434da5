"""Cron fields, read a second time: by code that shares nothing with the one that makes tasks due."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEK = timedelta(days=7)


@dataclass(frozen=True)
class CronFields:
    """Six fields, seconds first.

    `last_weekdays` are days of the week (Sunday is 0) that are meant where they are the last ones of their month, `nth_weekdays`
    those that are meant where they are the first, second and so on. `counts_time`: minutes or hours begin with a star.
    """

    seconds: tuple[int, ...]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    last_day: bool
    last_working_day: bool
    last_weekdays: frozenset[int]
    nth_weekdays: frozenset[tuple[int, int]]
    both_must_match: bool
    counts_time: bool

    @classmethod
    def read(cls, fields: Sequence[str]) -> Self:
        """Read fields that are known to be valid."""
        second, minute, hour, day, month, weekday = (field.upper() for field in fields)
        days = day.split(",")
        weekdays = weekday.split(",")
        last = [term for term in days if term.startswith("L")]
        last_weekdays = [term for term in weekdays if term.endswith("L")]
        nth = [term for term in weekdays if "#" in term]
        return cls(
            seconds=tuple(sorted(_numbers(second.split(","), 0, 59))),
            minutes=_numbers(minute.split(","), 0, 59),
            hours=_numbers(hour.split(","), 0, 23),
            days=_numbers([term for term in days if term not in last], 1, 31),
            months=_numbers(month.split(","), 1, 12, _MONTHS),
            weekdays=_of_week(_numbers([term for term in weekdays if term not in (*last_weekdays, *nth)], 0, 7, _WEEKDAYS)),
            last_day=any(term.partition("/")[0] == "L" for term in last),
            last_working_day=any(term.partition("/")[0] == "LW" for term in last),
            last_weekdays=_of_week(_number(term[:-1], _WEEKDAYS, 0) for term in last_weekdays),
            nth_weekdays=frozenset(
                (_number(name, _WEEKDAYS, 0) % 7, int(place)) for name, _, place in (term.partition("#") for term in nth)
            ),
            both_must_match=day.startswith("*") or weekday.startswith("*"),
            counts_time=minute.startswith("*") or hour.startswith("*"),
        )

    def mean(self, day: date) -> bool:
        """Whether a day is meant."""
        if day.month not in self.months:
            return False
        of_month, of_week = self._mean_of_month(day), self._mean_of_week(day)
        return (of_month and of_week) if self.both_must_match else (of_month or of_week)

    def _mean_of_month(self, day: date) -> bool:
        if day.day in self.days:
            return True
        if self.last_day and (day + timedelta(days=1)).month != day.month:
            return True
        if self.last_working_day and day.weekday() < 5:
            rest = 3 if day.weekday() == 4 else 1  # a Friday is the last one too if only a weekend follows
            return any((day + timedelta(days=ahead)).month != day.month for ahead in range(1, rest + 1))
        return False

    def _mean_of_week(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.weekdays or (weekday, (day.day - 1) // 7 + 1) in self.nth_weekdays:
            return True
        return weekday in self.last_weekdays and (day + _WEEK).month != day.month


def _numbers(terms: Sequence[str], first: int, last: int, names: Sequence[str] = ()) -> frozenset[int]:
    found: set[int] = set()
    for term in terms:
        span, slash, step = term.partition("/")
        low, dash, high = span.partition("-")
        if span == "*":
            numbers = range(first, last + 1)
        elif dash:
            numbers = range(_number(low, names, first), _number(high, names, first) + 1)
        else:
            begin = _number(span, names, first)
            numbers = range(begin, (last if slash else begin) + 1)
        found.update(numbers[:: int(step)] if slash else numbers)
    return frozenset(found)


def _number(text: str, names: Sequence[str], first: int) -> int:
    return names.index(text) + first if text in names else int(text)


def _of_week(numbers: Iterable[int]) -> frozenset[int]:
    return frozenset(number % 7 for number in numbers)
