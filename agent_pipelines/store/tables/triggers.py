"""What can become due: the triggers of all tasks with how far each has been looked at, and what they were before."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, one_of, task_columns

SOURCES = ("declared", "registered")
STATES = ("on", "off", "paused", "removed")

triggers = sa.Table(
    "triggers",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    *task_columns(),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("spec_hash", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("since", Instant, nullable=False),
    sa.Column("looked_until", Instant, nullable=False),
    sa.Column("next_due_at", Instant),
    sa.Column("marks", Json, nullable=False),
    sa.UniqueConstraint("workspace", "application", "task", "trigger"),
    sa.CheckConstraint(one_of("source", SOURCES), name="source"),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.CheckConstraint("next_due_at IS NULL OR (state = 'on' AND next_due_at > looked_until)", name="next_due"),
    sa.Index(
        "ix_triggers_next_due",
        "next_due_at",
        sqlite_where=sa.text("next_due_at IS NOT NULL"),
        postgresql_where=sa.text("next_due_at IS NOT NULL"),
    ),
)

trigger_history = sa.Table(
    "trigger_history",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    *task_columns(),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("effective_at", Instant, nullable=False),
    sa.Column("observed_at", Instant, nullable=False),
    sa.CheckConstraint(one_of("source", SOURCES), name="source"),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.Index("ix_trigger_history_trigger", "workspace", "application", "task", "trigger", "seq"),
)
