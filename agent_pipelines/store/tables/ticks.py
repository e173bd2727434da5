"""What was due, and the events that made it so."""

import sqlalchemy as sa

from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, one_of, task_columns

ticks = sa.Table(
    "ticks",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    *task_columns(),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("trigger_revision", sa.Text),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("occurrence", sa.Text, nullable=False),
    sa.Column("due_at", Instant, nullable=False),
    sa.Column("logical_at", Instant, nullable=False),
    sa.Column("begins_at", Instant, nullable=False, server_default="0"),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("inputs", Json, nullable=False),
    sa.Column("lane", sa.Text, nullable=False, server_default="run"),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("spec_hash", sa.Text),
    sa.Column("waits_for", sa.Text),  # id of the tick that it is queued behind
    sa.Column("claimed_at", Instant, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("verdict", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("execution_id", sa.Text),
    sa.Column("decided_at", Instant),
    sa.UniqueConstraint("workspace", "application", "task", "trigger", "occurrence"),
    sa.CheckConstraint(one_of("origin", Origin), name="origin"),
    sa.CheckConstraint(f"verdict IS NULL OR {one_of('verdict', Verdict)}", name="verdict"),
    sa.CheckConstraint("(verdict IS NULL) = (decided_at IS NULL)", name="decided"),
    sa.CheckConstraint("verdict IS NULL OR verdict <> 'ran' OR (run_id IS NOT NULL AND execution_id IS NOT NULL)", name="ran"),
    sa.CheckConstraint("verdict IS NULL OR verdict <> 'deduplicated' OR execution_id IS NOT NULL", name="deduplicated"),
    sa.CheckConstraint(
        "verdict IS NULL OR verdict NOT IN ('skipped', 'missed', 'launch_failed') OR reason IS NOT NULL", name="reason"
    ),
    sa.Index("ix_ticks_due", "due_at"),
    sa.Index("ix_ticks_task", "workspace", "application", "task", "seq"),
    sa.Index(
        "ix_ticks_open",
        "workspace",
        "application",
        "task",
        "claimed_at",
        sqlite_where=sa.text("verdict IS NULL"),
        postgresql_where=sa.text("verdict IS NULL"),
    ),
    sa.Index(
        "ix_ticks_burst",
        "workspace",
        "begins_at",
        sqlite_where=sa.text("verdict IS NULL AND lane = 'burst' AND run_id IS NULL AND waits_for IS NULL"),
        postgresql_where=sa.text("verdict IS NULL AND lane = 'burst' AND run_id IS NULL AND waits_for IS NULL"),
    ),
    sa.Index(
        "ix_ticks_queued",
        "waits_for",
        sqlite_where=sa.text("verdict IS NULL AND waits_for IS NOT NULL"),
        postgresql_where=sa.text("verdict IS NULL AND waits_for IS NOT NULL"),
    ),
)

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("payload", Json, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.UniqueConstraint("workspace", "source", "key"),
    sa.Index("ix_inbox_type", "workspace", "type", "received_at"),
)
