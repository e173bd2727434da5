"""Reading the end of a table that only grows."""

from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

from agent_pipelines.core.clock import Microseconds

# How far back is read again: a row becomes visible when its transaction is over, and by then later ones may have been seen.
_SOON = 5 * 1_000_000  # at every reading
_LATE = 120 * 1_000_000  # now and then
_NOW_AND_THEN = 15 * 1_000_000
_BEFORE = 2_000  # rows before the first reading, which were being written then

Row = TypeVar("Row", bound=tuple[Any, ...])


class Tail:
    """Which rows of a table are new since the last reading, by their `seq`, whatever the order in which they become visible.

    Rows above `floor` are read, `new` are those of them that were not seen before, `note` says that they have been dealt with.
    The first reading takes up some older rows, too.
    """

    def __init__(self, now: Microseconds, last_seq: int) -> None:
        self._seen: set[int] = set()
        self._ends = deque([(now - _LATE, max(last_seq - _BEFORE, 0))])
        """The highest `seq` that was seen, and when."""
        self._far_at = now

    def floor(self, now: Microseconds) -> int:
        """Above which `seq` rows are to be read now."""
        back = _LATE if self._is_far(now) else _SOON
        return next((end for at, end in reversed(self._ends) if at <= now - back), self._ends[0][1])

    def new(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows above the floor, each with its `seq` first, that are new."""
        return [row for row in rows if row[0] not in self._seen]

    def note(self, rows: Sequence[Row], now: Microseconds) -> None:
        """The rows above the floor have been seen."""
        self._seen.update(row[0] for row in rows)
        self._ends.append((now, max([self._ends[-1][1], *(row[0] for row in rows[-1:])])))
        if self._is_far(now):
            self._far_at = now
            while len(self._ends) > 1 and self._ends[1][0] <= now - _LATE:
                self._ends.popleft()
            self._seen = {seq for seq in self._seen if seq > self._ends[0][1]}

    def _is_far(self, now: Microseconds) -> bool:
        return abs(now - self._far_at) >= _NOW_AND_THEN
