"""Where the warm processes of a deployment keep their files."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.record import RunRecords

_LONG = 20 * 2**20


@dataclass(frozen=True)
class Listening:
    """A warm process, and where it listens."""

    pid: int
    started: str
    host: str
    socket: str

    @property
    def process(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)


class WarmPlace:
    """The directory `warm` of a DAGSTER_HOME; nobody else may enter it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "warm"

    @property
    def records(self) -> RunRecords:
        return RunRecords(self.directory / "runs")

    def prepare(self) -> None:
        """Make the directories. Raises OSError."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        (self.directory / "runs").mkdir(mode=0o700, exist_ok=True)
        (self.home / "process_logs").mkdir(exist_ok=True)

    def log_path(self, key: str) -> Path:
        return self.home / "process_logs" / f"warm-{key}.log"

    def turn_log(self, key: str) -> bool:
        """Put a log that is long aside, in place of the one before; whether it was."""
        path = self.log_path(key)
        if not path.exists() or path.stat().st_size < _LONG:
            return False
        path.replace(path.with_suffix(".log.1"))
        return True

    def open_log(self, key: str) -> int:
        """Open a log for its end, made for this user only: what runs print may be anything."""
        return os.open(self.log_path(key), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write_to_log(self, key: str) -> None:
        """Let this process write what it prints to a new log."""
        log = self.open_log(key)
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)

    def listening(self, key: str) -> Listening | None:
        """The current warm process of a key, if it is alive and on this machine."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            found = Listening(**json.loads(self._path(key).read_text()))
            if found.host == HOST and found.process.is_alive():
                return found
        return None

    def announce(self, key: str, listening: Listening) -> None:
        """Make a process the current one."""
        temporary = self.directory / f"{key}.{listening.pid}.new"
        temporary.write_text(json.dumps(asdict(listening)))
        os.replace(temporary, self._path(key))

    def withdraw(self, key: str, process: ProcessIdentity) -> None:
        """Make a process no longer the current one, if it is."""
        found = self.listening(key)
        if found is not None and found.process == process:
            self._path(key).unlink(missing_ok=True)

    def all_listening(self) -> list[Listening]:
        """The current warm processes of all keys."""
        found = [self.listening(path.stem) for path in self.directory.glob("*.json")]
        return [each for each in found if each is not None]

    def stop_all(self) -> None:
        """Ask all warm processes to end. Runs that are being executed go on."""
        for each in self.all_listening():
            each.process.send(signal.SIGTERM)

    @contextmanager
    def lock(self, key: str, timeout: float) -> Iterator[None]:
        """Who holds it may start the warm process of a key. It ends with its holder. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        with (self.directory / f"{key}.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError from None
                    time.sleep(0.02)
            yield

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.json"
