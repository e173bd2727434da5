"""Results that identical calls share."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, metadata, task_columns

result_cache = sa.Table(
    "result_cache",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    *task_columns(),
    sa.Column("execution_id", sa.Text, sa.ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("kept_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("hits", sa.Integer, nullable=False),
    sa.Column("last_hit_at", Instant),
    sa.CheckConstraint("expires_at > kept_at", name="expires"),
    sa.CheckConstraint("(hits > 0) = (last_hit_at IS NOT NULL)", name="hits"),
    sa.Index("ix_result_cache_task", "workspace", "application", "task", "kept_at"),
    sa.Index("ix_result_cache_expires", "expires_at"),
    sa.Index("ix_result_cache_execution", "execution_id"),
)
