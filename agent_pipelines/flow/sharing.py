"""How permits are shared among those who want some: pure arithmetic, the same answer wherever it is worked out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.limit import PRIORITY_CLASSES, PriorityClass

STARVED = 60_000_000
"""Microseconds for which something may wait while nothing of its kind is begun; then it has the next free permit."""

_OF_ALL = ("agent/", "provider/", "node/", "resource/")  # scopes that several applications share


@dataclass(frozen=True, slots=True)
class Want:
    """What one holder wants of the same kind: `amount` permits, each of all `scopes` together.

    `served_at` is the instant at which something of the application was last begun, `since` that from which the first waits.
    """

    holder: str
    application: str
    priority_class: PriorityClass
    priority: int
    scopes: tuple[str, ...]
    amount: int
    served_at: Microseconds
    since: Microseconds = 0
    is_starved: bool = False


def share(room: Mapping[str, int], wants: Sequence[Want]) -> list[int]:
    """How many each one gets; no scope gives more than its room, one that is not in `room` is not limited.

    What starves first. Then class after class. Within a class each application gets as much of a scope as the others, unless
    it wants less or is limited elsewhere (max-min fair); within an application the higher priority first, and holders of the
    same priority the same. Whoever was served longest ago gets what cannot be divided.
    """
    sharing = _Sharing(room, wants)
    for index in sorted((i for i, want in enumerate(wants) if want.is_starved), key=sharing.standing):
        sharing.give(index, min(1, sharing.fits(index)))
    for priority_class in PRIORITY_CLASSES:
        sharing.fill([i for i, want in enumerate(wants) if want.priority_class == priority_class])
    return sharing.given


class _Sharing:
    def __init__(self, room: Mapping[str, int], wants: Sequence[Want]) -> None:
        self._wants = wants
        self._room = {scope: max(0, free) for scope, free in room.items()}
        self._limited = [tuple(scope for scope in want.scopes if scope in room) for want in wants]
        self._shared = [tuple(s for s in scopes if s.startswith(_OF_ALL) and room[s] > 0) for scopes in self._limited]
        self._left = dict(self._room)
        self._taken: dict[tuple[str, str], int] = defaultdict(int)
        self._served: dict[str, int] = {}
        for want in wants:
            self._served[want.application] = max(want.served_at, self._served.get(want.application, 0))
        self.given = [0] * len(wants)

    def fits(self, index: int) -> int:
        wanted = self._wants[index].amount - self.given[index]
        return max(0, min((self._left[scope] for scope in self._limited[index]), default=wanted))

    def give(self, index: int, amount: int) -> None:
        self.given[index] += amount
        for scope in self._limited[index]:
            self._left[scope] -= amount
            self._taken[scope, self._wants[index].application] += amount

    def standing(self, index: int) -> tuple[object, ...]:
        want = self._wants[index]
        fullest = max((self._taken[scope, want.application] / self._room[scope] for scope in self._shared[index]), default=0.0)
        served = self._served[want.application]
        return (
            fullest,
            served,
            want.application,
            -want.priority,
            self.given[index],
            want.since,
            want.holder,
            index,
        )

    def fill(self, members: list[int]) -> None:
        self._taken.clear()
        active = [i for i in members if self.given[i] < self._wants[i].amount]
        while active := [i for i in active if self.given[i] < self._wants[i].amount and self.fits(i) > 0]:
            index = min(active, key=self.standing)
            wanted = self._wants[index].amount - self.given[index]
            fits = self.fits(index)
            # A part of what is everyone's equal share: large rooms are filled in few steps, and nobody gets too much.
            several = max(1, fits // (2 * len(active)))
            self.give(index, min(wanted, fits, wanted if not self._limited[index] else several))
