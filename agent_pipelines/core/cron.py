"""When a cron expression is due in a time zone.

The fields are read as Debian's cron reads them, with seconds before the minutes:

- A day must match day of month *and* day of week if either field starts with a star, otherwise one of them.
- If neither the field of minutes nor that of hours starts with a star, the expression names times of the wall clock. Each is due
  once a day, when the clock first shows it or a later one. So a time that a clock set forward leaves out is due at the first
  instant after the gap, and a time that a clock set back shows twice is due at the first of the two.
- If one of these fields starts with a star, the expression counts time as it passes. It is due at every instant that
  the fields match: `0 * * * *` and `*/30 * * * *` in both of the hours that a clock set back shows, and not in a gap.
- Seconds make no difference to this. `0 30 2 * * *` is due when `30 2 * * *` is, and `* 30 2 * * *`, which names sixty times,
  is due once if they lie in a gap: times that a clock change moves to the same instant are one.

Instants here are whole seconds since 1970-01-01T00:00:00Z.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from agent_pipelines.core.wall_times import WallTimes
from agent_pipelines.core.zone import stretches_back_from, stretches_from

_LONGEST_CHANGE = 2 * 86_400  # a zone that moved to the other side of the date line changed by one day
_GIVE_UP = 50 * 366 * 86_400


class CronTimes:
    """The due instants of six cron fields, seconds first, in a zone. Raises CronSimError for fields that cannot be read."""

    def __init__(self, fields: Sequence[str], zone: str) -> None:
        self._zone = zone
        self._times = WallTimes(fields)
        self._counts_time = fields[1].startswith("*") or fields[2].startswith("*")

    @property
    def shortest_gap(self) -> int:
        """The shortest time between two that follow each other, clock changes aside; fifty years if no two do."""
        return self._times.shortest_gap

    def after(self, instant: int) -> Iterator[int]:
        """The due instants later than `instant`, in order."""
        return self._matching_after(instant) if self._counts_time else self._shown_after(instant)

    def latest(self, instant: int) -> int | None:
        """The last due instant that is not later than `instant`."""
        return self._latest_matching(instant) if self._counts_time else self._latest_shown(instant)

    def _matching_after(self, instant: int) -> Iterator[int]:
        found = instant
        for start, end, offset in stretches_from(self._zone, instant):
            if start > found + _GIVE_UP:
                return
            for time in self._times.after(max(instant, start - 1) + offset):
                if time >= end + offset:
                    break
                found = time - offset
                yield found

    def _latest_matching(self, instant: int) -> int | None:
        for start, end, offset in stretches_back_from(self._zone, instant):
            if end < instant - _GIVE_UP:
                return None
            time = self._times.latest(min(instant, end - 1) + offset)
            if time is not None and time - offset >= start:
                return time - offset
        return None

    def _shown_after(self, instant: int) -> Iterator[int]:
        found = instant
        for time in self._times.after(self._latest_time_shown(instant)):
            due = self._first_shown(time)
            if due is None:
                return
            if due > found:
                found = due
                yield due

    def _latest_shown(self, instant: int) -> int | None:
        time = self._times.latest(self._latest_time_shown(instant))
        return None if time is None else self._first_shown(time)

    def _latest_time_shown(self, instant: int) -> int:
        """The latest time that clocks of the zone have shown until an instant."""
        latest = instant - _LONGEST_CHANGE
        for start, end, offset in stretches_from(self._zone, latest):
            if start > instant:
                break
            latest = max(latest, min(instant, end - 1) + offset)
        return latest

    def _first_shown(self, time: int) -> int | None:
        """The first instant at which clocks of the zone show a time or a later one."""
        for start, end, offset in stretches_from(self._zone, time - _LONGEST_CHANGE):
            if time < end + offset:
                return max(time - offset, start)
        return None


@lru_cache(maxsize=16_384)
def cron_times(fields: Sequence[str], zone: str) -> CronTimes:
    """The due instants of an expression; read once however often it is asked for."""
    return CronTimes(fields, zone)
