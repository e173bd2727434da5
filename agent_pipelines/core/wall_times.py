"""The times that a cron expression names, as a clock on the wall shows them: no time zone, no clock changes.

A time is the number of seconds that the clock would have counted since it showed 1970-01-01 00:00:00.
"""

import calendar
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from typing import overload

from cronsim import CronSim

_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_2024 = date(2024, 1, 1).toordinal() - _EPOCH
_GIVE_UP = 50 * 12  # months without a day: any that come again do so within forty years
_RANGE_OF_ONE = re.compile(r"\b(\w+)-\1/\d+")  # cronsim reads `5-5/2` as `5/2`: from 5 on
_FIFTY_YEARS = 50 * 366
_ANY_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)  # cronsim only reads the fields; it does not count


class WallTimes:
    """The times of six cron fields, seconds first. Raises CronSimError for fields that cannot be read."""

    def __init__(self, fields: Sequence[str]) -> None:
        fields = [_RANGE_OF_ONE.sub(r"\1", field) for field in fields]
        read = CronSim(" ".join(fields), _ANY_MOMENT)
        self._of_day = TimesOfDay(read.seconds, read.minutes, read.hours)
        self._days = _days(*fields[3:])

    @cached_property
    def shortest_gap(self) -> int:
        """The shortest time between two that follow each other; fifty years if no two do."""
        over_night = self._days.shortest_gap * _DAY - (self._of_day[-1] - self._of_day[0])
        return min(self._of_day.shortest_gap, over_night)

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

    @cached_property
    def shortest_gap(self) -> int:
        """The fewest days from one to the next, in the years from 2024 on."""
        return min((right - left for left, right in pairwise(islice(self.on_and_after(_2024), 1_500))), default=_FIFTY_YEARS)

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
        """The shortest time between two of them; fifty years if there is but one."""
        shortest, length = _FIFTY_YEARS * _DAY, 0
        for unit, values in ((1, self._seconds), (60, self._minutes), (3_600, self._hours)):
            for left, right in pairwise(values):
                shortest = min(shortest, (right - left) * unit - length)
            length += (values[-1] - values[0]) * unit
        return shortest
