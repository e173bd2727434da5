"""Rows of processes that say again and again that they live."""

import sqlalchemy as sa

from agent_pipelines.core.clock import Microseconds

STALE = 15_000_000
"""Microseconds after its last beat at which a process no longer counts as alive."""

_FORGOTTEN = 86_400_000_000  # microseconds


def is_alive(table: sa.Table, now: Microseconds) -> sa.ColumnElement[bool]:
    """That a process has said so lately. A beat of the future is one of before the clock was set back."""
    return table.c.beat_at.between(now - STALE, now + STALE)


def forget_silent(connection: sa.Connection, table: sa.Table, now: Microseconds) -> None:
    """Remove those that have been silent for a day."""
    connection.execute(sa.delete(table).where(table.c.beat_at < now - _FORGOTTEN))
