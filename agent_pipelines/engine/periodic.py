"""Work that is done again and again beside the clock, each piece in a thread of its own."""

import logging
import threading
from collections.abc import Callable

from agent_pipelines.core.secrets import redactor

_log = logging.getLogger("agent_pipelines.periodic")


class Periodic:
    """Calls a function every so many seconds until it is stopped. One that raises is called again; its error is logged once.

    `failure` is the error of the last call, None if it went well.
    """

    def __init__(self, name: str, work: Callable[[], object], seconds: float, stop: threading.Event) -> None:
        self.name = name
        self.failure: Exception | None = None
        self._work = work
        self._seconds = seconds
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name=f"agent-pipelines-{name}", daemon=True)

    def start(self) -> "Periodic":
        """Begin."""
        self._thread.start()
        return self

    def join(self, timeout: float) -> None:
        """Wait for the end, after the stop was said; of one that has not begun there is nothing to wait for."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def once(self) -> None:
        """Do the work now."""
        try:
            self._work()
        except Exception as error:
            words = redactor.text(f"{type(error).__name__}: {error}")
            if self.failure is None or str(self.failure) != str(error):
                _log.exception("%s: %s", self.name, words)
            self.failure = error
        else:
            if self.failure is not None:
                _log.info("%s: works again", self.name)
            self.failure = None

    def _run(self) -> None:
        while not self._stop.is_set():
            self.once()
            self._stop.wait(self._seconds)
