"""The offset of a time zone from UTC, as stretches of time in which it stays the same.

Instants here are whole seconds since 1970-01-01T00:00:00Z.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

_DAY = 86_400  # since 1900 no zone has changed its offset twice within three of them
_BLOCK = 366 * _DAY
# Where Python's calendar begins and ends, whatever the offset.
_START = int(datetime(1, 1, 3, tzinfo=UTC).timestamp())
_END = int(datetime(9999, 12, 30, tzinfo=UTC).timestamp())


class Stretch(NamedTuple):
    """From `start` until before `end` clocks show UTC plus `offset`. Two that follow each other may have the same offset."""

    start: int
    end: int
    offset: int


def stretches_from(zone: str, instant: int) -> Iterator[Stretch]:
    """The stretch that an instant lies in, and those after it."""
    block = instant // _BLOCK
    while block * _BLOCK < _END:
        for stretch in _stretches(zone, block):
            if stretch.end > instant:
                yield stretch
        block += 1


def stretches_back_from(zone: str, instant: int) -> Iterator[Stretch]:
    """The stretch that an instant lies in, and those before it."""
    block = min(instant, _END - 1) // _BLOCK
    while (block + 1) * _BLOCK > _START:
        for stretch in reversed(_stretches(zone, block)):
            if stretch.start <= instant:
                yield stretch
        block -= 1


@lru_cache(maxsize=8_192)
def _stretches(zone: str, block: int) -> tuple[Stretch, ...]:
    info = ZoneInfo(zone)

    def offset_at(instant: int) -> int:
        offset = datetime.fromtimestamp(instant, info).utcoffset()
        assert offset is not None
        return offset.days * 86_400 + offset.seconds

    start, end = max(block * _BLOCK, _START), min((block + 1) * _BLOCK, _END)
    found: list[Stretch] = []
    offset = offset_at(start)
    for left, right in pairwise((*range(start, end, _DAY), end)):
        if offset_at(right) == offset:
            continue
        while right - left > 1:
            middle = (left + right) // 2
            left, right = (middle, right) if offset_at(middle) == offset else (left, middle)
        found.append(Stretch(start, right, offset))
        start, offset = right, offset_at(right)
    if start < end:
        found.append(Stretch(start, end, offset))
    return tuple(found)
