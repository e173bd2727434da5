"""Notes on disk of which process executes which run, for those who come after the death of the warm process."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent_pipelines.engine.warm.ending import kill_tree
from agent_pipelines.engine.warm.identity import OwnedProcess, ProcessIdentity


@dataclass(frozen=True)
class RunRecord(OwnedProcess):
    """The process of one run. Written before the run begins, removed once the run is over."""

    run_id: str
    host: str
    pid: int
    started: str
    owner_pid: int
    owner_started: str
    socket: str
    """Where the owner, the warm process that the child belongs to, listens."""
    cancelled: bool = False
    ended: str | None = None
    """How the process ended before the run was over, if that is known."""
    leased: bool = False
    """Whether a worker has claimed the run: then nobody on this machine but that one may end it."""


class RunRecords:
    """The records of one deployment, a file a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self, record: RunRecord) -> RunRecord | None:
        """Write a new record. If the run has one already nothing is written, and that one is returned."""
        temporary = self._write(record)
        try:
            os.link(temporary, self._path(record.run_id))
        except FileExistsError:
            return self.get(record.run_id)
        finally:
            temporary.unlink()
        return None

    def get(self, run_id: str) -> RunRecord | None:
        with suppress(FileNotFoundError):
            return RunRecord(**json.loads(self._path(run_id).read_text()))
        return None

    def cancel(self, run_id: str) -> None:
        """Write down that the process of a run is to end, for who takes it over."""
        with self._lock():
            record = self.get(run_id)
            if record is not None:
                self._replace(replace(record, cancelled=True))

    def end(self, run_id: str, process: ProcessIdentity, words: str) -> bool:
        """Write down how the process of a run ended. False if that was done already, or the run has another process or none.

        Who is told True, and nobody else, sees to it that the run ends.
        """
        with self._lock():
            record = self.get(run_id)
            if record is None or record.process != process or record.ended is not None:
                return False
            self._replace(replace(record, ended=words))
            return True

    def remove(self, run_id: str) -> None:
        with self._lock():
            self._path(run_id).unlink(missing_ok=True)

    def adopt(self, owner: ProcessIdentity, socket: str) -> list[RunRecord]:
        """Make a warm process the owner of all records of this machine whose own owner is gone; returns these.

        A run with a lease may be another machine's by now: what is left of it here is killed and forgotten.
        """
        adopted: list[RunRecord] = []
        with self._lock():
            for path in self._directory.glob("*.json"):
                record = self.get(path.stem)
                if record is None or not record.is_here or record.owner.is_alive() or record.ended is not None:
                    continue
                if record.leased:
                    kill_tree(record.process)
                    path.unlink(missing_ok=True)
                    continue
                record = replace(record, owner_pid=owner.pid, owner_started=owner.started, socket=socket)
                self._replace(record)
                adopted.append(record)
        return adopted

    def _path(self, run_id: str) -> Path:
        return self._directory / f"{run_id}.json"

    def _replace(self, record: RunRecord) -> None:
        os.replace(self._write(record), self._path(record.run_id))

    def _write(self, record: RunRecord) -> Path:
        temporary = self._directory / f"{record.run_id}.{os.getpid()}.new"
        temporary.write_text(json.dumps(asdict(record)))
        return temporary

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
