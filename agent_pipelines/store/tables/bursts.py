"""Runs that work on many ticks, as they say it themselves; and the processes that keep the time."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Sequence, metadata

bursts = sa.Table(
    "bursts",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False, unique=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("launched_at", Instant, nullable=False),
    sa.Column("opened_at", Instant),
    sa.Column("beat_at", Instant),
    sa.Column("in_flight", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("closing_at", Instant),
    sa.Column("closed_at", Instant),
    sa.Index(
        "ix_bursts_live", "workspace", sqlite_where=sa.text("closed_at IS NULL"), postgresql_where=sa.text("closed_at IS NULL")
    ),
)

daemons = sa.Table(
    "daemons",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("beat_at", Instant, nullable=False),
)
