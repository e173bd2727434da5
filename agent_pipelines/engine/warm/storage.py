"""Dagster's storage as runs use it: what it would look up or make anew for every statement is kept."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import event, exc
from sqlalchemy.pool import NullPool

_STATEMENT_TIMEOUT = 300_000  # milliseconds
_RECYCLE = 3_600  # seconds
_OVERFLOW = 4
_TRUSTED = 5.0  # seconds that a connection may rest before it is tried
_COLUMNS = ("has_run_stats_index_cols", "has_backfill_id_column")


def keep_connections(instance: DagsterInstance) -> None:
    """Keep the connections to PostgreSQL, where Dagster would connect for every statement.

    Opens nothing yet, so that a fork may follow. It is Dagster's own way, made for its web server.
    """
    instance.optimize_for_webserver(statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_RECYCLE, max_overflow=_OVERFLOW)
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine = getattr(storage, "_engine", None)
        if isinstance(engine, sa.Engine) and engine.dialect.name == "postgresql":
            event.listen(engine, "checkin", _rests)
            event.listen(engine, "checkout", _try)


def keep_metadata(instance: DagsterInstance) -> None:
    """Keep what Dagster would make or look up anew for every statement, and what stays the same: no connection.

    For SQLite it makes an engine each time, with caches that are empty; and it asks with every event of a run which columns
    its tables have.
    """
    runs, events = instance.run_storage, instance.event_log_storage
    if isinstance(runs, SqliteRunStorage) and "connect" not in vars(runs):
        runs.connect = _connecting(sa.create_engine(runs._conn_string, poolclass=NullPool))  # type: ignore[method-assign]
    if isinstance(events, ConsolidatedSqliteEventLogStorage) and "_connect" not in vars(events):
        arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
        engine = sa.create_engine(events._conn_string, poolclass=NullPool, connect_args=arguments)
        events._connect = _connecting(engine)  # type: ignore[method-assign]
    for name in _COLUMNS:
        if hasattr(runs, name) and name not in vars(runs) and getattr(runs, name)():
            setattr(runs, name, lambda: True)


def _connecting(engine: sa.Engine) -> Callable[[], AbstractContextManager[sa.Connection]]:
    @contextmanager
    def connect() -> Iterator[sa.Connection]:
        with engine.begin() as connection:
            yield connection

    return connect


def _rests(connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _try(connection: Any, record: Any, proxy: Any) -> None:
    # A run may wait for hours, and the server may have been restarted meanwhile.
    since = record.info.get("rests_since")
    if since is None or time.monotonic() - since < _TRUSTED:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        raise exc.DisconnectionError from error
