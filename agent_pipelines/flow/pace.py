"""When something may begin that a rate limits: a bucket that fills as time passes, kept as the instant at which it was empty."""

from dataclasses import dataclass
from typing import Literal

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.core.rate import Rate

Unit = Literal["requests", "tokens"]

_PART = 20  # of a rate, and of its period, that is kept back so that no window of a period sees more than the rate
_SLACK = 250_000  # microseconds of a period that are kept back at most


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate as a bucket. It holds `capacity`, and one unit more every `step` microseconds.

    Any window of a period sees at most the rate, and the declared burst above it, if what may begin at an instant begins
    within `tolerance` microseconds. One that costs more than the bucket holds goes when the bucket is full, and alone.
    """

    capacity: int
    step: float
    tolerance: Microseconds

    @classmethod
    def of(cls, rate: Rate, burst: int | None) -> "Pace":
        """The bucket of a rate."""
        slack = min(rate.period // _PART, _SLACK)
        capacity = burst or max(1, rate.amount // _PART)
        # A bucket of one unit never reaches the next whole unit within a period; a larger one counts as a part of the rate.
        drip = rate.amount if burst is not None or capacity == 1 else rate.amount - capacity
        return cls(capacity, (rate.period + slack) / drip, slack // 2)

    def earliest(self, empty_at: Microseconds, now: Microseconds, cost: int) -> Microseconds:
        """When what costs so much may begin."""
        begins_at = self._empty_at(empty_at, now) + round(min(cost, self.capacity) * self.step)
        return max(now, begins_at)

    def after(self, empty_at: Microseconds, begins_at: Microseconds, cost: int) -> Microseconds:
        """The instant at which the bucket counts as empty once something has begun."""
        return self._empty_at(empty_at, begins_at) + round(cost * self.step)

    def corrected(self, empty_at: Microseconds, difference: int) -> Microseconds:
        """The same when it has turned out that so much more was used than was thought; less than zero is given back."""
        return empty_at + round(difference * self.step)

    def room(self, empty_at: Microseconds, now: Microseconds, until: Microseconds, cost: int) -> int:
        """How many of the same cost may begin until an instant."""
        first = self.earliest(empty_at, now, cost)
        if first > until or cost < 1:
            return 0 if cost >= 1 else 1 << 30
        return 1 + int((until - self._empty_at(empty_at, now) - min(cost, self.capacity) * self.step) / (cost * self.step))

    def _empty_at(self, empty_at: Microseconds, now: Microseconds) -> Microseconds:
        return max(empty_at, now - round(self.capacity * self.step))


def paces(limit: LimitSpec) -> dict[Unit, Pace]:
    """The buckets of a limit."""
    found: dict[Unit, Pace] = {}
    if limit.requests is not None:
        found["requests"] = Pace.of(limit.requests, limit.requests_burst)
    if limit.tokens is not None:
        found["tokens"] = Pace.of(limit.tokens, limit.tokens_burst)
    return found
