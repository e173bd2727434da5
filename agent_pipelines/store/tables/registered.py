"""Tasks that exist as rows: what each is now, and every version that it had."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Sequence, metadata, one_of, task_columns

TASK_STATES = ("enabled", "disabled", "paused", "removed")

registered_tasks = sa.Table(
    "registered_tasks",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    *task_columns(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("spec_hash", sa.Text, sa.ForeignKey("task_specs.spec_hash"), nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("workspace", "application", "task"),
    sa.CheckConstraint("version >= 1", name="version"),
    sa.CheckConstraint(one_of("state", TASK_STATES), name="state"),
    sa.Index("ix_registered_tasks_agent", "workspace", "agent", "application", "task"),
)

registered_task_versions = sa.Table(
    "registered_task_versions",
    metadata,
    *task_columns(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("spec_hash", sa.Text, sa.ForeignKey("task_specs.spec_hash"), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.PrimaryKeyConstraint("workspace", "application", "task", "version"),
)
