"""Which process is meant: an id is given again, an id with a start time is not."""

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import psutil

HOST = socket.gethostname()


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of this machine."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has an id now; of one that is gone already an identity that is not alive."""
        return cls(pid, _started(pid) or "gone")

    @classmethod
    def own(cls) -> Self:
        """This process."""
        return cls.of(os.getpid())

    def is_alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        return _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is alive."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def send_group(self, number: signal.Signals) -> None:
        """Send a signal to the process group that it leads, or what is left of it."""
        if not self.is_alive() and _exists(self.pid):
            return  # the id, and with it the number of the group, is somebody else's now
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return
        self.send(number)


class OwnedProcess:
    """A process and the one that it works for, as they were noted on a machine, maybe another."""

    host: str
    pid: int
    started: str
    owner_pid: int
    owner_started: str

    @property
    def is_here(self) -> bool:
        """Whether they are of this machine; nobody can see from here whether those of another live."""
        return self.host == HOST

    @property
    def process(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)

    @property
    def owner(self) -> ProcessIdentity:
        return ProcessIdentity(self.owner_pid, self.owner_started)


def own_start() -> int:
    """When this process started, in nanoseconds since 1970, to about a hundredth of a second."""
    with suppress(OSError):
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time_ns() - int(age * 1e9)
    return int(psutil.Process().create_time() * 1e9)


def _exists(pid: int) -> bool:
    started = _started(pid)
    return started is not None


def _started(pid: int) -> str | None:
    try:
        # The name, in parentheses, may hold anything. State is the 3rd field, the number of threads the 20th, the start in
        # ticks since boot the 22nd. A zombie with other threads is still ending.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    is_gone = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return None if is_gone else f"{_boot()}:{fields[19].decode()}"


def _started_elsewhere(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


@cache
def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return ""
