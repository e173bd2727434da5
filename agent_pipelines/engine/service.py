"""One process that is kept alive."""

import logging
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from agent_pipelines.engine.stack_state import ServiceState
from agent_pipelines.engine.warm.ending import signal_when_parent_ends
from agent_pipelines.engine.warm.identity import ProcessIdentity

_log = logging.getLogger("agent_pipelines.services")

_BACKOFF = (0.5, 1, 2, 5, 10, 30)  # seconds before another start, by the number of quick deaths in a row
_STEADY = 60.0  # seconds after which a death counts as the first


class Service:
    """Starts a process, and starts it again when it dies. On Linux it is asked to end when the thread dies that started it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._not_before = 0.0
        self._deaths = 0
        self.state = ServiceState(name, None, None, _now(), 0, None)

    def keep(self) -> bool:
        """Start it if it does not run; whether anything has changed."""
        now, before = time.monotonic(), self.state
        if self._process is not None and (code := self._process.poll()) is not None:
            self._deaths = 0 if now - self._started_at > _STEADY else self._deaths + 1
            wait = _BACKOFF[min(self._deaths, len(_BACKOFF) - 1)]
            self._not_before = now + wait
            self._process = None
            self.state = ServiceState(self.name, None, None, _now(), self.state.restarts + 1, code)
            _log.error("%s ended with exit code %s; it is started again in %g s", self.name, code, wait)
        if self._process is None and now >= self._not_before:
            # This process has one thread, so that code between fork and exec does no harm.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, preexec_fn=partial(signal_when_parent_ends, signal.SIGTERM)
            )
            self._started_at = now
            identity = ProcessIdentity.of(self._process.pid)
            self.state = ServiceState(
                self.name, identity.pid, identity.started, _now(), self.state.restarts, self.state.exit_code
            )
            _log.info("%s is process %d", self.name, self._process.pid)
        return self.state is not before

    def ask_to_end(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send it a signal, by default as a terminal would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, grace: float) -> None:
        """Wait for its end, for at most `grace` seconds."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)

    def end(self, grace: float) -> None:
        """Wait for its end; kill it after `grace` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not end within %.0f s and is killed", self.name, grace)
            self._process.kill()
            self._process.wait()


def _now() -> int:
    return time.time_ns() // 1_000
