"""A run that a worker of this process has claimed."""

import threading
import time
from contextlib import suppress

from agent_pipelines.engine.celery.claims import RunClaim
from agent_pipelines.engine.warm.protocol import Alive, Cancel, Channel, Done


class HeldRun:
    """A claim of this worker, and the connection to the warm process that executes the run."""

    def __init__(self, claim: RunClaim, alive_at: float) -> None:
        self.claim = claim
        self.alive_at = alive_at
        """When the claim was last known to be ours, by the monotonic clock."""
        self.is_lost = False
        """Whether somebody else may execute the run."""
        self.given_up: str | None = None
        """Why this worker has ended the run, if it has."""
        self._channel: Channel | None = None
        self._is_cancelled = False
        self._lock = threading.Lock()

    def tie(self, channel: Channel) -> None:
        """Let the run depend on us from now on."""
        with self._lock:
            self._channel = channel
        if self.is_lost:
            self.lose()
        elif self.given_up is not None:
            self.give_up(self.given_up)
        else:
            self.alive(self.alive_at)
            self._ask_for_end()

    def alive(self, at: float) -> None:
        """Pass on that the claim was ours at that time."""
        self.alive_at = at
        self._send(Alive(at))

    def cancel(self) -> None:
        """Ask for the end of the run, once."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._ask_for_end()

    def give_up(self, words: str) -> None:
        """End the run although it is ours: what executes it is killed at once, and `words` say why."""
        self.given_up = words
        self._untie()

    def lose(self) -> None:
        """Leave the run to others: what executes it here is killed at once."""
        self.is_lost = True
        self._untie()

    def wait(self) -> Done | None:
        """Wait for the end of the run; None if the warm process is gone, or has killed the run because we gave it up."""
        channel = self._channel
        assert channel is not None
        try:
            while True:
                with suppress(TimeoutError):
                    message = channel.receive()
                    return message if isinstance(message, Done) else None
        except OSError:
            return None
        finally:
            with self._lock:
                self._channel = None
                channel.close()

    def is_ours(self, lease: float) -> bool:
        """Whether nobody else can have the run by now."""
        return not self.is_lost and time.monotonic() - self.alive_at < lease

    def _untie(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.end()

    def _ask_for_end(self) -> None:
        if self._is_cancelled:
            self._send(Cancel(self.claim.run_id))

    def _send(self, message: Alive | Cancel) -> None:
        with self._lock, suppress(OSError):  # a warm process that is gone is noticed by who waits
            if self._channel is not None:
                self._channel.send(message)
