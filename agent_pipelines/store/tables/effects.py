"""What executions do to the world."""

import sqlalchemy as sa

from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, one_of, task_columns

effects = sa.Table(
    "effects",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    *task_columns(),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("execution_id", sa.Text),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("request", Json),
    sa.Column("receipt", Json),
    sa.Column("error", sa.Text),
    sa.Column("intended_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("settled_by", sa.Text),
    sa.UniqueConstraint("workspace", "key"),
    sa.CheckConstraint("tries >= 1", name="tries"),
    sa.CheckConstraint(one_of("status", EffectStatus), name="status"),
    sa.CheckConstraint("(status = 'intended') = (ended_at IS NULL)", name="ended"),
    sa.CheckConstraint("(status IN ('done', 'abandoned')) = (settled_by IS NOT NULL)", name="settled"),
    sa.Index("ix_effects_execution", "execution_id", "seq"),
    sa.Index("ix_effects_status", "workspace", "status", "seq"),
)
