"""How a run's process is made to end."""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

import psutil

from agent_pipelines.engine.warm.identity import ProcessIdentity

_POLL = 0.05
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_KILLED = 10.0  # seconds in which a killed process is gone, unless it waits for a device


class Ending:
    """Asks a process, then tells its whole group, then kills the group."""

    def __init__(self, process: ProcessIdentity, *, grace_after_interrupt: float, grace_after_terminate: float) -> None:
        self._process = process
        self._interrupt_at = time.monotonic()
        self._terminate_at = self._interrupt_at + grace_after_interrupt
        self._kill_at = self._terminate_at + grace_after_terminate
        self._sent: signal.Signals | None = None

    def proceed(self) -> None:
        """Send what is due by now. A kill is repeated: the group may just be starting another process."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._process.send_group(signal.SIGKILL)
            self._sent = signal.SIGKILL
        elif now >= self._terminate_at and self._sent is not signal.SIGTERM:
            self._process.send_group(signal.SIGTERM)
            self._sent = signal.SIGTERM
        elif self._sent is None:
            self._process.send(signal.SIGINT)
            self._sent = signal.SIGINT

    def wait(self) -> None:
        """Proceed until the process is gone."""
        while self._process.is_alive():
            self.proceed()
            time.sleep(_POLL)


def kill(process: ProcessIdentity) -> bool:
    """Kill a process with its group and all that descends from it, and wait until it is gone itself; whether it is."""
    deadline = time.monotonic() + _KILLED
    kill_tree(process)
    while process.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
        process.send_group(signal.SIGKILL)
    return True


def kill_tree(process: ProcessIdentity) -> None:
    """Kill a process with its group and all that descends from it, also what has a session of its own."""
    descendants: list[psutil.Process] = []
    if process.is_alive():
        with suppress(psutil.Error):
            descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_group(signal.SIGKILL)
    for each in descendants:
        with suppress(psutil.Error):
            each.kill()


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have the system send this process a signal when the thread ends that started it, where the system can (Linux)."""
    if _libc is not None:
        _libc.prctl(_SET_DEATH_SIGNAL, number)


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when the process that forked it is gone, where the system can (Linux)."""
    signal_when_parent_ends(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
