"""What has arrived in the inbox since the last look."""

from collections.abc import Container, Sequence

from agent_pipelines.components.watch.tail import Tail
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.engine.inbox import Inbox, InboxEvent
from agent_pipelines.store.database import Connection

_AT_ONCE = 1_000


class Arrivals:
    """Reads each event of the inbox once, as soon as it is visible."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._tail: Tail | None = None

    def read(self, connection: Connection, now: Microseconds, types: Container[tuple[str, str]]) -> Sequence[InboxEvent]:
        """New events of some types, each of which is a workspace and a name."""
        if self._tail is None:
            self._tail = Tail(now, self._inbox.last_seq(connection))
        rows = self._inbox.arrivals(connection, after=self._tail.floor(now))
        wanted = [seq for seq, workspace, type in self._tail.new(rows) if (workspace, type) in types]
        events: list[InboxEvent] = []
        for start in range(0, len(wanted), _AT_ONCE):
            events += self._inbox.by_seqs(connection, wanted[start : start + _AT_ONCE])
        self._tail.note(rows, now)
        return events
