"""What launcher, warm process and children tell each other: one JSON object a line over a unix socket."""

import json
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """To a warm process and its child: execute a run, or go on with it after its process died."""

    run_id: str
    job_name: str
    resume: bool = False
    note: str | None = None
    """Written to the run's events first."""
    lease: float | None = None
    """Seconds after which its process is killed unless the worker that claimed the run says again that it holds it."""
    alive_at: float = 0.0
    """When that worker last knew that it holds the run, by the monotonic clock of this machine."""


@dataclass(frozen=True)
class Cancel:
    """To a warm process: end the child of a run."""

    run_id: str


@dataclass(frozen=True)
class Alive:
    """To a warm process: the worker of a run with a lease held it at that time, by the monotonic clock of this machine."""

    at: float


@dataclass(frozen=True)
class Close:
    """To a child: the process of a run is gone; see to it that the run ends."""

    run_id: str
    words: str


@dataclass(frozen=True)
class Setup:
    """To a child that was not forked: what it would have inherited."""

    instance_ref: str
    directory: str
    runs: int
    preload: list[str]


@dataclass(frozen=True)
class Started:
    """From a warm process: the run has a process."""

    pid: int


@dataclass(frozen=True)
class Stale:
    """From a warm process: its code is older than what is on disk; ask a new one."""

    words: str


@dataclass(frozen=True)
class Failed:
    """From a warm process: the run cannot be started."""

    words: str
    error: str | None = None


@dataclass(frozen=True)
class Done:
    """From a child: it is free again. From a warm process: it does what was asked; or a run with a lease is over."""

    left: bool = False
    """Whether the run that was to be closed is left to run monitoring, which resumes it."""


Message = Run | Cancel | Alive | Close | Setup | Started | Stale | Failed | Done
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Run, Cancel, Alive, Close, Setup, Started, Stale, Failed, Done)}


class Channel:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    @classmethod
    def to(cls, path: Path, timeout: float) -> "Channel":
        """Connect to who listens at a path. Raises OSError if nobody does."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the other end is gone."""
        self._connection.sendall(_line(message))

    def receive(self) -> Message | None:
        """The next message, None at the end. Raises OSError, TimeoutError among them."""
        while b"\n" not in self._received:
            data = self._connection.recv(65_536)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        body = json.loads(line)
        return _KINDS[body.pop("kind")](**body)

    def arrived(self) -> list[Message] | None:
        """The messages that are there, without waiting for more; None if the other end is gone."""
        self._connection.setblocking(False)
        ended = False
        try:
            while data := self._connection.recv(65_536):
                self._received += data
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        finally:
            with suppress(OSError):
                self._connection.setblocking(True)
        messages: list[Message] = []
        while b"\n" in self._received:
            message = self.receive()
            if message is not None:
                messages.append(message)
        return None if ended and not messages else messages

    def put_back(self, messages: list[Message]) -> None:
        """Let messages that have arrived arrive again."""
        self._received = b"".join(_line(message) for message in messages) + self._received

    def end(self) -> None:
        """Say that nothing more will come, to the other end and to who waits here."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


def _line(message: Message) -> bytes:
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"
