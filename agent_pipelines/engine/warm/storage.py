"""Dagster's storage as runs use it: what it would look up or make anew for every statement is kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy.pool import NullPool

from agent_pipelines.store.rested import try_rested

_STATEMENT_TIMEOUT = 300_000  # milliseconds
_RECYCLE = 3_600  # seconds
_OVERFLOW = 4
_TRUSTED = 5.0  # seconds that a connection may rest before it is tried
_OF_RUNS = ("has_run_stats_index_cols", "has_backfill_id_column")
_OF_SCHEDULES = ("has_instigators_table", "has_secondary_index_table")


def keep_connections(instance: DagsterInstance) -> None:
    """Keep the connections to PostgreSQL, where Dagster would connect for every statement.

    Opens nothing yet, so that a fork may follow. It is Dagster's own way, made for its web server.
    """
    instance.optimize_for_webserver(statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_RECYCLE, max_overflow=_OVERFLOW)
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine = getattr(storage, "_engine", None)
        if isinstance(engine, sa.Engine) and engine.dialect.name == "postgresql":
            # A run may wait for hours, and the server may have been restarted meanwhile.
            try_rested(engine, _TRUSTED)


def keep_metadata(instance: DagsterInstance) -> None:
    """Keep what Dagster would make or look up anew for every statement, and what stays the same: no connection.

    For SQLite it makes an engine each time, with caches that are empty; and it asks with every event of a run, and with every
    look at schedules, which tables and columns there are.
    """
    runs, events = instance.run_storage, instance.event_log_storage
    if isinstance(runs, SqliteRunStorage) and "connect" not in vars(runs):
        runs.connect = _connecting(sa.create_engine(runs._conn_string, poolclass=NullPool))  # type: ignore[method-assign]
    if isinstance(events, ConsolidatedSqliteEventLogStorage) and "_connect" not in vars(events):
        arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
        engine = sa.create_engine(events._conn_string, poolclass=NullPool, connect_args=arguments)
        events._connect = _connecting(engine)  # type: ignore[method-assign]
    for storage, questions in ((runs, _OF_RUNS), (instance.schedule_storage, _OF_SCHEDULES)):
        for name in questions:
            if hasattr(storage, name):
                _remember(storage, name)
                getattr(storage, name)()
        if hasattr(storage, "has_built_index"):
            _remember(storage, "has_built_index")


def _remember(storage: Any, name: str) -> None:
    """Let a storage remember what it has once found to be there: migrations add, they do not take away."""
    if name in vars(storage):
        return
    ask, there = getattr(storage, name), set[tuple[Any, ...]]()

    def answer(*arguments: Any) -> bool:
        if arguments not in there and ask(*arguments):
            there.add(arguments)
        return arguments in there

    setattr(storage, name, answer)


def _connecting(engine: sa.Engine) -> Callable[[], AbstractContextManager[sa.Connection]]:
    @contextmanager
    def connect() -> Iterator[sa.Connection]:
        with engine.begin() as connection:
            yield connection

    return connect
