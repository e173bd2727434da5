"""The books of a period: what was due, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskKey

MANY = 10_000
"""Gaps that are told one by one; further ones are only counted."""


@dataclass
class Gap:
    """Instants of a trigger, one after the other, that were due and have no tick."""

    task_key: TaskKey
    trigger: str
    first: Microseconds
    last: Microseconds
    instants: int = 1

    @property
    def path(self) -> str:
        """`application/task`."""
        return f"{self.task_key[1]}/{self.task_key[2]}"


@dataclass
class Account:
    """One trigger of one task: everything that was due is in exactly one of `verdicts`, `open` and `gaps`.

    Of what was due, `found` was not expected independently; of what is open, `overdue` has been so for too long. Besides there
    are `not_yet`, instants that may still get their tick, `extras`, ticks that nobody expects, `withdrawn`, ticks that were taken
    back before they were due, and `doubles`, second ticks of one instant.
    """

    task_key: TaskKey
    trigger: str
    kind: str
    due: int = 0
    verdicts: dict[str, int] = field(default_factory=dict[str, int])
    open: int = 0
    gaps: int = 0
    found: int = 0
    not_yet: int = 0
    overdue: int = 0
    extras: int = 0
    withdrawn: int = 0
    doubles: int = 0
    open_since: Microseconds | None = None

    @property
    def path(self) -> str:
        """`application/task`."""
        return f"{self.task_key[1]}/{self.task_key[2]}"

    @property
    def closes(self) -> bool:
        """Whether everything that was due is accounted for."""
        return not (self.gaps or self.overdue or self.doubles) and self.due == sum(self.verdicts.values()) + self.open

    def add(self, other: "Account") -> None:
        """Add the numbers of another account to this one."""
        for name in ("due", "open", "gaps", "found", "not_yet", "overdue", "extras", "withdrawn", "doubles"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for verdict, number in other.verdicts.items():
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + number
        since = [each for each in (self.open_since, other.open_since) if each is not None]
        self.open_since = min(since, default=None)


@dataclass(frozen=True)
class Books:
    """The accounts of a period, as they were at an instant; `watched` is how many triggers were on at some time in it."""

    since: Microseconds
    until: Microseconds
    at: Microseconds
    watched: int
    accounts: Sequence[Account]
    gaps: Sequence[Gap]

    @property
    def total(self) -> Account:
        """The sum of all accounts."""
        return summed(self.accounts, "")

    @property
    def closes(self) -> bool:
        """Whether everything that was due is accounted for."""
        return all(account.closes for account in self.accounts)

    @property
    def problems(self) -> list[str]:
        """Why the books do not close, in words; nothing if they do."""
        total = self.total
        told = (
            (total.gaps, f"{total.gaps} due without a tick"),
            (total.overdue, f"{total.overdue} open for too long"),
            (total.doubles, f"{total.doubles} twice"),
        )
        return [words for number, words in told if number]


def summed(accounts: Sequence[Account], kind: str) -> Account:
    """Several accounts as one."""
    total = Account(("", "", ""), "", kind)
    for account in accounts:
        total.add(account)
    return total
