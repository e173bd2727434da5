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

    @property
    def granted_at(self) -> Microseconds | None:
        """The instant at which the limits let it begin; None if no limit concerns it, or it was given back."""
        return None if self.held is None else self.held.granted_at

    def release(self, usage: Usage | None = None) -> None:
        """Give it back, and say what was really used; again without effect."""
        desk, held, self.held = self.desk, self.held, None
        if desk is not None and held is not None:
            desk.give(held, usage)
