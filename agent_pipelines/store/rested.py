"""Connections of a pool that have rested: tried before they are used again, for the server may have been restarted meanwhile."""

import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc


def try_rested(engine: sa.Engine, trusted: float) -> None:
    """Try a connection of PostgreSQL before its use, unless it was in use within the last `trusted` seconds and is open.

    SQLAlchemy's `pool_pre_ping` tries it each time, which costs as much as a short statement.
    """

    def rests(_connection: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    def wakes(connection: Any, record: Any, _proxy: Any) -> None:
        since = record.info.get("rests_since")
        if since is None:
            return
        if time.monotonic() - since < trusted:
            # The server says nothing of itself but that it closes the connection: no round trip is needed to see that.
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(0):
                raise exc.DisconnectionError
            return
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise exc.DisconnectionError from error

    event.listen(engine, "checkin", rests)
    event.listen(engine, "checkout", wakes)
