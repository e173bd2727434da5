"""What ties a run to the worker that has claimed it: when it tears, the run's processes are killed."""

import time
from contextlib import suppress

from agent_pipelines.engine.warm.protocol import Alive, Channel, Done, Message


class Leash:
    """The connection over which a worker says again and again that it still holds a run.

    A worker that cannot say so for `lease` seconds may have lost the run to another machine.
    """

    def __init__(self, channel: Channel, lease: float, alive_at: float) -> None:
        self._channel = channel
        self._lease = lease
        self._alive_at = alive_at
        self._is_closed = False

    def fileno(self) -> int:
        return self._channel.fileno()

    def hear(self) -> list[Message]:
        """Take what the worker says; what is no sign of life is for the caller."""
        if self._is_closed:
            return []
        messages = self._channel.arrived()
        if messages is None:
            self.close()
            return []
        for message in messages:
            if isinstance(message, Alive):
                self._alive_at = max(self._alive_at, message.at)
        return [message for message in messages if not isinstance(message, Alive)]

    @property
    def is_torn(self) -> bool:
        """Whether the worker is gone, or has been silent for too long."""
        return self._is_closed or time.monotonic() - self._alive_at > self._lease

    def let_go(self, *, left: bool) -> None:
        """Tell the worker that its run is over, or left to run monitoring."""
        with suppress(OSError):
            self._channel.send(Done(left))
        self.close()

    def close(self) -> None:
        self._is_closed = True
        self._channel.close()
