"""The times that a cron expression names, as a clock on the wall shows them: no time zone, no clock changes.

A time is the number of seconds that the clock would have counted since it showed 1970-01-01 00:00:00.
"""

import calendar
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import overload

from cronsim import CronSim

_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_GIVE_UP = 50 * 12  # months without a day: any that come again do so within forty years
_ANY_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)  # cronsim only reads the fields; it does not count


class WallTimes:
    """The times of six cron fields, seconds first. Raises CronSimError for fields that cannot be read."""

    def __init__(self, fields: Sequence[str]) -> None:
        read = CronSim(" ".join(fields), _ANY_MOMENT)
        self._of_day = TimesOfDay(read.seconds, read.minutes, read.hours)
        self._days = _days(*fields[3:])

    @property
    def shortest_gap(self) -> int:
        """The shortest time between two that follow each other; of those a day or more apart it says a day."""
        return self._of_day.shortest_gap

    def after(self, time: int) -> Iterator[int]:
        """The times later than `time`, in order."""
        first, second = divmod(time + 1, _DAY)
        for day in self._days.on_and_after(first):
            begin = bisect_left(self._of_day, second) if day == first else 0
            for index in range(begin, len(self._of_day)):
                yield day * _DAY + self._of_day[index]

    def latest(self, time: int) -> int | None:
        """The last of the times that are not later than `time`."""
        last, second = divmod(time, _DAY)
        for day in self._days.on_and_before(last):
            count = bisect_right(self._of_day, second) if day == last else len(self._of_day)
            if count:
                return day * _DAY + self._of_day[count - 1]
        return None


class Days:
    """The days of the fields day of month, month and day of week, counted from 1970-01-01."""

    def __init__(self, day_of_month: str, month: str, day_of_week: str) -> None:
        self._read = CronSim(f"0 0 {day_of_month} {month} {day_of_week}", _ANY_MOMENT)
        self._dates: dict[tuple[int, int], Sequence[int]] = {}

    def on_and_after(self, day: int) -> Iterator[int]:
        """In order."""
        first = date.fromordinal(day + _EPOCH)
        year, month, empty = first.year, first.month, 0
        while year <= MAXYEAR and empty < _GIVE_UP:
            days = self._of(year, month)
            begin = bisect_left(days, day)
            empty = 0 if begin < len(days) else empty + 1
            yield from days[begin:]
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)

    def on_and_before(self, day: int) -> Iterator[int]:
        """The last one first."""
        last = date.fromordinal(day + _EPOCH)
        year, month, empty = last.year, last.month, 0
        while year >= MINYEAR and empty < _GIVE_UP:
            days = self._of(year, month)
            end = bisect_right(days, day)
            empty = 0 if end else empty + 1
            yield from reversed(days[:end])
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)

    def _of(self, year: int, month: int) -> Sequence[int]:
        """Those of a month."""
        if month not in self._read.months:
            return ()
        weekday, length = calendar.monthrange(year, month)
        dates = self._dates.get((weekday, length))
        if dates is None:
            dates = [number for number in range(1, length + 1) if self._read.match_day(date(year, month, number))]
            self._dates[weekday, length] = dates
        before = date(year, month, 1).toordinal() - _EPOCH - 1
        return [before + number for number in dates]


_days = lru_cache(maxsize=1_024)(Days)  # most expressions have the same few


class TimesOfDay(Sequence[int]):
    """The times of any one day, in order, as seconds since its midnight."""

    def __init__(self, seconds: set[int], minutes: set[int], hours: set[int]) -> None:
        self._seconds, self._minutes, self._hours = sorted(seconds), sorted(minutes), sorted(hours)
        self._length = len(seconds) * len(minutes) * len(hours)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._length))]
        rest, second = divmod(index, len(self._seconds))
        hour, minute = divmod(rest, len(self._minutes))
        return self._hours[hour] * 3_600 + self._minutes[minute] * 60 + self._seconds[second]

    @property
    def shortest_gap(self) -> int:
        """The shortest time between two of them, or from the last one to the first of the next day."""
        shortest, length = _DAY, 0
        for unit, values in ((1, self._seconds), (60, self._minutes), (3_600, self._hours)):
            for left, right in pairwise(values):
                shortest = min(shortest, (right - left) * unit - length)
            length += (values[-1] - values[0]) * unit
        return min(shortest, _DAY - length)
