"""The right to make one attempt."""

from dataclasses import dataclass

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.event import Usage
from agent_pipelines.execution.desk import Desk, Held


@dataclass(eq=False)
class Permit:
    """The right to make one attempt; `queued` is how long it was waited for, in microseconds."""

    scopes: tuple[str, ...]
    queued: Microseconds = 0
    desk: Desk | None = None
    held: Held | None = None

    def release(self, usage: Usage | None = None) -> None:
        """Give it back, and say what was really used; again without effect."""
        desk, held, self.held = self.desk, self.held, None
        if desk is not None and held is not None:
            desk.give(held, usage)
