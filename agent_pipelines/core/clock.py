"""Time as the product keeps it: UTC, whole microseconds."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

Microseconds = int
"""Microseconds since 1970-01-01T00:00:00Z."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where the product reads the time and waits, so that a test can stand in for both."""

    def now(self) -> Microseconds: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> Microseconds:
        return time.time_ns() // 1_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is moved; sleeping moves it. For tests and simulations."""

    def __init__(self, start: Microseconds = 1_767_225_600_000_000) -> None:
        self.time = start
        self.sleeps: list[float] = []

    def now(self) -> Microseconds:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += round(seconds * 1_000_000)
        await asyncio.sleep(0)


def to_microseconds(moment: datetime) -> Microseconds:
    """Convert an aware datetime. Raises ValueError for a naive one: its instant is unknown."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no UTC offset; write one, as in {moment.isoformat()}+00:00")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(instant: Microseconds) -> datetime:
    """Convert to an aware datetime in UTC."""
    return datetime.fromtimestamp(instant // 1_000_000, UTC).replace(microsecond=instant % 1_000_000)


def isoformat(instant: Microseconds) -> str:
    """Write an instant as ISO 8601 in UTC, to the microsecond only where it has any."""
    return from_microseconds(instant).isoformat().replace("+00:00", "Z")
