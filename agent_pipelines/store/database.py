"""The open database: connections, transactions, and one writer that commits in groups."""

import asyncio
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.secrets import redactor
from agent_pipelines.store.rested import try_rested

SCHEMA = "agent_pipelines"
"""Schema of our tables on PostgreSQL; on SQLite they have a file of their own."""

_IDLE_IN_TRANSACTION = 60_000  # milliseconds after which PostgreSQL ends a connection that does nothing in its transaction
_TRUSTED = 1.0  # seconds that a connection to PostgreSQL may rest before it is tried
_GROUP = 256  # operations that share a commit at most

Connection = sa.Connection
"""For rooms that pass a transaction on; what is done in it is the business of the class that owns the table."""

Result = TypeVar("Result")
Operation = Callable[[sa.Connection], Result]
Group = list[tuple[Operation[Any], Future[Any]]]
Queue = queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None]
Outcomes = list[tuple[Future[Any], Any, BaseException | None]]


class Database:
    """One database of the product. `write` and `read` are for coroutines, `transaction` and `reading` for plain code.

    Raises StorageError if the database is locked, gone or damaged.
    """

    def __init__(self, url: str, *, busy_timeout: float = 30.0) -> None:
        self.url = _driver_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(self.url, busy_timeout) if self.is_sqlite else _postgres_engine(self.url)
        self._queue: Queue = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        _open_databases.add(self)

    def __repr__(self) -> str:
        return f"Database({self.url.render_as_string(hide_password=True)})"

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine, for migrations."""
        return self._engine

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        """A transaction that may write; committed at the end of the block, rolled back on an exception."""
        with _translated(self), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[sa.Connection]:
        """A connection that only reads one consistent state."""
        with _translated(self), self._engine.connect() as connection:
            # By default each statement of PostgreSQL sees what was committed before it, and not what the one before it saw.
            level: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
            yield connection.execution_options(reading=True, **level)

    async def write(self, operation: Operation[Result]) -> Result:
        """Run an operation in a group commit; returns when it is durable.

        An operation that raises harms no other of its group: those are done once more without it. So an operation changes
        nothing but the database; and it must not touch the network.
        """
        return await asyncio.wrap_future(self.submit(operation))

    async def read(self, operation: Operation[Result]) -> Result:
        """Run a reading operation outside the event loop."""
        return await asyncio.to_thread(self._read, operation)

    def submit(self, operation: Operation[Result]) -> "Future[Result]":
        """Hand an operation to the writer without waiting."""
        future: Future[Result] = Future()
        with self._lock:
            if self._writer is None or not self._writer.is_alive():
                # Each writer has a queue of its own: the end of one must not reach the next.
                self._queue = queue.SimpleQueue()
                self._writer = threading.Thread(
                    target=self._write_groups, args=(self._queue,), name="agent-pipelines-writer", daemon=True
                )
                self._writer.start()
            self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """Finish what was submitted and release all connections."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                self._queue.put(None)
        if writer is not None:
            writer.join()
        self._engine.dispose()

    def _read(self, operation: Operation[Result]) -> Result:
        with self.reading() as connection:
            return operation(connection)

    def _write_groups(self, operations: Queue) -> None:
        while (first := operations.get()) is not None:
            group = [first]
            ending = False
            with suppress(queue.Empty):
                while len(group) < _GROUP:
                    following = operations.get_nowait()
                    if following is None:
                        ending = True
                        break
                    group.append(following)
            self._write_group(group)
            if ending:
                return

    def _write_group(self, group: Group) -> None:
        outcomes: Outcomes = []
        try:
            outcomes = self._commit(group)
        except StorageError as error:
            if len(group) > 1 and _is_deadlock(error):
                # The server ended one of two groups that took the same rows in another order; one by one they cannot.
                for one in group:
                    self._write_group([one])
                return
            outcomes = [(future, None, error) for _, future in group]
        except BaseException as error:
            outcomes = [(future, None, error) for _, future in group]
        for future, result, error in outcomes:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _commit(self, group: Group) -> Outcomes:
        try:
            with self.transaction() as connection:
                return [(future, operation(connection), None) for operation, future in group]
        except Exception as error:
            # Alone, it harms no other; and a connection that failed is not to be trusted with the rest of the group.
            if len(group) == 1 or isinstance(error.__cause__, exc.OperationalError):
                raise
        # It took the writes of the others along. Savepoints keep them apart, for two more round trips each.
        return self._commit_apart(group)

    def _commit_apart(self, group: Group) -> Outcomes:
        outcomes: Outcomes = []
        with self.transaction() as connection:
            for operation, future in group:
                connection.exec_driver_sql("SAVEPOINT operation")
                try:
                    outcomes.append((future, operation(connection), None))
                except exc.OperationalError:
                    raise  # the connection is not to be trusted with the rest of the group
                except Exception as error:
                    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT operation")
                    outcomes.append((future, None, error))
                connection.exec_driver_sql("RELEASE SAVEPOINT operation")
        return outcomes

    def _after_fork(self) -> None:
        # The child owns neither the writer thread nor the sockets; closing them here would close the parent's.
        self._engine.dispose(close=False)
        self._queue = queue.SimpleQueue()
        self._writer = None
        self._lock = threading.Lock()


_open_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for database in list(_open_databases):
        database._after_fork()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_forget_in_child)


def _is_deadlock(error: StorageError) -> bool:
    cause = error.__cause__
    return isinstance(cause, exc.DBAPIError) and getattr(cause.orig, "pgcode", None) in ("40P01", "40001")


def _driver_url(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    redactor.register(parsed.password)
    if parsed.drivername in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg2")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StorageError(f"database URL: {parsed.get_backend_name()!r} is not supported; use sqlite or postgresql")
    return parsed


def _sqlite_engine(url: sa.URL, busy_timeout: float) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": busy_timeout, "check_same_thread": False})

    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        _write_ahead(connection, time.monotonic() + busy_timeout)
        for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: sa.Connection) -> None:
        # IMMEDIATE takes the write lock at once: a lock upgrade in the middle would fail without waiting.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _write_ahead(connection: sqlite3.Connection, until: float) -> None:
    """Have a file be written ahead. SQLite itself does not wait when several processes open a new file at once."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _postgres_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=4,
        max_overflow=8,
        pool_use_lifo=True,  # the one that was used last: it need not be tried
        executemany_mode="values_plus_batch",  # a hundred updates of one statement a round trip, and not each its own
        connect_args={
            # A process that is suspended in a transaction must not hold its locks against its successor.
            "options": f"-csearch_path={SCHEMA} -cidle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION}",
            "connect_timeout": 10,
            "application_name": "agent-pipelines",
        },
    )
    try_rested(engine, _TRUSTED)
    return engine


@contextmanager
def _translated(database: Database) -> Generator[None]:
    try:
        yield
    except exc.OperationalError as error:
        if "no such table" in str(error.orig):
            raise StorageError(f"{database!r} has not been prepared: run `agent-pipelines migrate`") from error
        raise StorageError(f"{database!r}: {redactor.text(str(error.orig)).strip()}") from error
    except exc.ProgrammingError as error:
        if "does not exist" in str(error.orig):
            raise StorageError(f"{database!r} has not been prepared: run `agent-pipelines migrate`") from error
        raise
    except exc.DatabaseError as error:
        if isinstance(error, exc.IntegrityError | exc.DataError):
            raise
        raise StorageError(f"{database!r}: {redactor.text(str(error.orig)).strip()}") from error
