"""A UTC day in a time zone, read minute by minute: what clocks show, what they leave out, what they show again.

Since 1972 clocks of all zones are whole minutes away from UTC; earlier days are not asked for.
"""

from array import array
from collections.abc import Sequence
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = 86_400
_MINUTE = 60
_EPOCH = date(1970, 1, 1).toordinal()

Minutes = dict[date, dict[int, list[tuple[int, int]]]]
"""By date and hour on the wall: each minute with an instant, in seconds since 1970-01-01T00:00:00Z."""


class ZoneDay:
    """The minutes of one UTC day, named as clocks on the wall name them.

    - `passing`: each with its own instant. A minute that the clock shows twice is there twice.
    - `shown`: those that no clock of the zone has shown before, with their instant.
    - `left_out`: those that no clock shows, because it is set forward, with the first instant after the gap.
    """

    def __init__(self, zone: str, day: int) -> None:
        self.passing: Minutes = {}
        self.shown: Minutes = {}
        self.left_out: Minutes = {}
        # No clock is set back by more than a day.
        latest = max(*_walls(zone, day - 2), *_walls(zone, day - 1))
        for number, wall in enumerate(_walls(zone, day)):
            instant = day * DAY + number * _MINUTE
            _add(self.passing, wall, instant)
            for skipped in range(latest + 1, wall):
                _add(self.left_out, skipped, instant)
            if wall > latest:
                _add(self.shown, wall, instant)
                latest = wall


@lru_cache(maxsize=2_048)
def zone_day(zone: str, day: int) -> ZoneDay:
    """A day of a zone, counted from 1970-01-01; read once."""
    return ZoneDay(zone, day)


@lru_cache(maxsize=2_048)
def _walls(zone: str, day: int) -> Sequence[int]:
    """Of each minute of a UTC day the number of the minute that clocks show."""
    info = ZoneInfo(zone)
    return array("q", (_wall(instant, info) for instant in range(day * DAY, (day + 1) * DAY, _MINUTE)))


def _wall(instant: int, info: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(instant, info).utcoffset()
    assert offset is not None
    return (instant + offset.days * DAY + offset.seconds) // _MINUTE


def _add(minutes: Minutes, wall: int, instant: int) -> None:
    day, minute = divmod(wall, 1_440)
    minutes.setdefault(date.fromordinal(day + _EPOCH), {}).setdefault(minute // 60, []).append((minute % 60, instant))
