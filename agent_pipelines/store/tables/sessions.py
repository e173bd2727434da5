"""What agents remember: conversations and the state of a task."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, task_columns

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("remote_id", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("workspace", "mode", "name", "agent"),
    sa.CheckConstraint("mode IN ('named', 'task', 'fresh')", name="mode"),
)

session_turns = sa.Table(
    "session_turns",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("execution_id", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("session_id", "execution_id", "role"),
    sa.CheckConstraint("role IN ('user', 'assistant')", name="role"),
    sa.Index("ix_session_turns_session", "session_id", "seq"),
)

task_state = sa.Table(
    "task_state",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    *task_columns(),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("value", Json),
    sa.Column("execution_id", sa.Text, nullable=False),
    sa.Column("written_at", Instant, nullable=False),
    sa.UniqueConstraint("workspace", "application", "task", "key", "execution_id"),
    sa.Index("ix_task_state_key", "workspace", "application", "task", "key", "seq"),
)
