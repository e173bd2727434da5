"""What has become of the tasks that others follow since the last look."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from agent_pipelines.components.watch.tail import Tail
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.store.database import Connection

_AT_ONCE = 1_000
_UNKNOWN = object()


class Upstreams:
    """Tells which followers have a reason to look: a new tick of their upstream, or a change of something that they wait for."""

    def __init__(self, ticks: Ticks, executions: Executions) -> None:
        self._ticks = ticks
        self._executions = executions
        self._tail: Tail | None = None
        self._waiting: dict[int, frozenset[str]] = {}  # followers, and the ticks and executions that they wait for
        self._awaited: dict[str, set[int]] = defaultdict(set)  # the same the other way round
        self._standing: Mapping[str, object] = {}

    def wait(self, follower: int, on: frozenset[str]) -> None:
        """A follower waits for these ticks and executions to change, and for no others."""
        for each in self._waiting.pop(follower, frozenset[str]()):
            self._awaited[each].discard(follower)
            if not self._awaited[each]:
                del self._awaited[each]
        if on:
            self._waiting[follower] = on
        for each in on:
            self._awaited[each].add(follower)

    def read(self, connection: Connection, now: Microseconds, followers: Mapping[TaskKey, Collection[int]]) -> set[int]:
        """The followers, given by their upstreams, that have a reason to look."""
        standing = self._read_standing(connection)
        # What was not awaited at the last reading may have changed before its follower looked, or after.
        changed = [each for each in standing if standing[each] != self._standing.get(each, _UNKNOWN)]
        if self._tail is None:
            self._tail = Tail(now, self._ticks.last_seq(connection))
        claims = self._ticks.claims(connection, after=self._tail.floor(now))
        claimed = {task for _, task in self._tail.new(claims)}
        self._tail.note(claims, now)
        self._standing = standing
        return {
            *(follower for each in changed for follower in self._awaited[each]),
            *(follower for task in claimed for follower in followers.get(task, ())),
        }

    def _read_standing(self, connection: Connection) -> dict[str, object]:
        ids = list(self._awaited)
        standing: dict[str, object] = {}
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            standing.update(dict.fromkeys(some))
            standing.update(self._ticks.verdicts(connection, some))
            standing.update(self._executions.standings(connection, some))
        return standing
