"""Connections to Dagster's storage that are kept from one statement to the next."""

import time
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from sqlalchemy import event, exc

_STATEMENT_TIMEOUT = 300_000  # milliseconds
_RECYCLE = 3_600
_OVERFLOW = 4
_TRUSTED = 5.0  # seconds that a connection may rest before it is tried


def pool_connections(instance: DagsterInstance) -> None:
    """Let an instance keep its connections, as its web server does, where the storage is a database server.

    Dagster would connect for every statement. A connection that rested is tried first: a run may wait for hours.
    """
    instance.optimize_for_webserver(statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_RECYCLE, max_overflow=_OVERFLOW)
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine = getattr(storage, "_engine", None)
        if isinstance(engine, sa.Engine) and engine.dialect.name == "postgresql":
            event.listen(engine, "checkin", _rested)
            event.listen(engine, "checkout", _try)


def _rested(connection: Any, record: Any) -> None:
    record.info["rested_since"] = time.monotonic()


def _try(connection: Any, record: Any, proxy: Any) -> None:
    since = record.info.get("rested_since")
    if since is None or time.monotonic() - since < _TRUSTED:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        raise exc.DisconnectionError from error
