"""Which of several daemons keeps the time: one leads, the others stand by."""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, Self

import sqlalchemy as sa
from sqlalchemy import exc

from agent_pipelines.core.errors import AgentPipelinesError, StorageError
from agent_pipelines.core.secrets import redactor

_log = logging.getLogger("agent_pipelines.leadership")

_KEY = 0x61_70_6C_65_61_64  # any number that nobody else uses
_POLL = 0.25  # seconds between two tries of a standby
_CHECK = 0.5  # seconds between two looks of the leader at its own connection
_SILENT = 30.0  # seconds without a sign of life after which a leader is deposed
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 5_000}
# The same for the server, which would keep the lock of a host that vanished for two hours.
_OPTIONS = "-ctcp_keepalives_idle=5 -ctcp_keepalives_interval=2 -ctcp_keepalives_count=3"
_HOLDER = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND CAST(classid AS bigint) = :key >> 32 AND CAST(objid AS bigint) = :key & 4294967295
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class SecondDaemon(AgentPipelinesError):
    """A second daemon on a SQLite deployment, which is for one."""


class Leadership(Protocol):
    """The right to keep the time."""

    def acquire(self, stop: threading.Event, beat: Callable[[], None]) -> bool:
        """Wait until this process leads; False if it was told to stop before. `beat` is called while it waits."""
        ...

    def release(self) -> None:
        """Let another one lead."""
        ...


class FileLeadership:
    """The lock of a file beside a SQLite database: who comes second is refused, because a file is no place for two hosts."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "daemon.lock"
        self._file: IO[str] | None = None

    def acquire(self, stop: threading.Event, beat: Callable[[], None]) -> bool:
        """Take the lock. Raises SecondDaemon that names the process which has it."""
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise SecondDaemon(
                f"process {holder} keeps the time of {self._path.parent} already; SQLite is for one daemon, "
                "several need PostgreSQL (docs/how-to/postgresql.md)"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; the end of the process does so too."""
        if self._file is not None:
            self._file.close()
            self._file = None


class AdvisoryLeadership:
    """An advisory lock of PostgreSQL on a connection of its own.

    The server frees it when the connection ends, so a leader that dies is followed within a fraction of a second. One that is
    cut off notices it itself and calls `lost`. One that is suspended or hangs keeps its connection: `pulse` returns something
    that changes while the leader lives, and if it does not for `silent` seconds, a standby ends that connection. A lock is no
    fence: what a leader still writes that was taken for dead is fenced by the unique keys of ticks and executions.
    """

    def __init__(self, url: sa.URL, lost: Callable[[str], None], pulse: Callable[[], object], *, silent: float = _SILENT) -> None:
        self._engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5, "application_name": "agent-pipelines leader", "options": _OPTIONS, **_KEEPALIVE},
        )
        self._lost = lost
        self._pulse = pulse
        self._silent = silent
        self._felt: tuple[object, float] | None = None  # the last pulse, and when it was felt first
        self._connection: sa.Connection | None = None
        self._released = threading.Event()

    def acquire(self, stop: threading.Event, beat: Callable[[], None]) -> bool:
        """Try until the lock is free. A server that is away is waited for."""
        while not stop.is_set():
            try:
                if self._try():
                    threading.Thread(target=self._watch, name="agent-pipelines-leadership", daemon=True).start()
                    return True
                beat()
                self._depose_if_silent()
            except (exc.DBAPIError, StorageError) as error:
                _log.warning("the database is away: %s", redactor.text(str(error)).splitlines()[0])
                self._drop()
                self._felt = None
            stop.wait(_POLL)
        return False

    def release(self) -> None:
        """Give the lock back."""
        self._released.set()
        self._drop()

    def _try(self) -> bool:
        if self._connection is None:
            self._connection = self._engine.connect()
        return bool(self._connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}).scalar())

    def _depose_if_silent(self) -> None:
        now, pulse = time.monotonic(), self._pulse()
        if self._felt is None or self._felt[0] != pulse:
            self._felt = pulse, now
        elif now - self._felt[1] > self._silent and self._connection is not None:
            _log.warning("the daemon that leads has given no sign of life for %g s, and is deposed", self._silent)
            self._felt = None
            self._connection.execute(sa.text(_HOLDER), {"key": _KEY})

    def _watch(self) -> None:
        while not self._released.wait(_CHECK):
            try:
                assert self._connection is not None
                self._connection.execute(sa.text("SELECT 1"))
            except Exception as error:
                if not self._released.is_set():
                    self._lost(redactor.text(str(error)).splitlines()[0])
                return

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def __enter__(self) -> Self:
        return self
