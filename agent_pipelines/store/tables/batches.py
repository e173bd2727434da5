"""Large work: batches, the shards that they are split into, and what became of each item last."""

import sqlalchemy as sa

from agent_pipelines.core.batch import ENDED_BATCH, ENDED_SHARD, BatchStatus, ShardStatus
from agent_pipelines.store.tables.base import Instant, Json, Number, Sequence, metadata, one_of, task_columns

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    *task_columns(),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("occurrence", sa.Text, nullable=False),
    sa.Column("spec_hash", sa.Text, nullable=False),
    sa.Column("execution_id", sa.Text, nullable=False),  # that the batch stands for: its output is the merged result
    sa.Column("invocation", Json, nullable=False),  # what all items have in common
    sa.Column("run_id", sa.Text, nullable=False),  # the one that opened it
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("shard_size", sa.Integer, nullable=False),
    sa.Column("item_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("shard_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fingerprint", Json),  # of the source, so that a shard does not work on another one's lines
    sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("skipped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("reopened_at", Instant),  # items that failed before are done again
    sa.Column("finished_at", Instant),
    sa.UniqueConstraint("workspace", "application", "task", "trigger", "occurrence"),
    sa.CheckConstraint(one_of("status", BatchStatus), name="status"),
    sa.CheckConstraint(f"({one_of('status', sorted(ENDED_BATCH))}) = (finished_at IS NOT NULL)", name="finished"),
    sa.Index("ix_batches_workspace", "workspace", "seq"),
    sa.Index("ix_batches_execution", "execution_id"),
    sa.Index(
        "ix_batches_live",
        "workspace",
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    ),
)

batch_shards = sa.Table(
    "batch_shards",
    metadata,
    sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_position", sa.BigInteger, nullable=False),
    sa.Column("last_position", sa.BigInteger, nullable=False),
    sa.Column("seek_hint", sa.BigInteger),  # byte of the first item in its file
    sa.Column("items", sa.LargeBinary),  # compressed JSON lines, for sources that cannot be read from the middle
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("beat_at", Instant),
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cost_usd", Number, nullable=False, server_default="0"),
    sa.Column("tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reason", sa.Text),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.CheckConstraint("first_position >= 0 AND last_position >= first_position", name="positions"),
    sa.CheckConstraint(one_of("status", ShardStatus), name="status"),
    sa.CheckConstraint(f"({one_of('status', sorted(ENDED_SHARD))}) = (finished_at IS NOT NULL)", name="finished"),
    sa.CheckConstraint("status <> 'running' OR (run_id IS NOT NULL AND beat_at IS NOT NULL)", name="worked_on"),
    sa.Index("ix_batch_shards_run", "run_id"),
    sa.Index(
        "ix_batch_shards_running",
        "beat_at",
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    ),
)

item_versions = sa.Table(
    "item_versions",
    metadata,
    *task_columns(),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("execution_id", sa.Text, nullable=False),
    sa.Column("done_at", Instant, nullable=False),
    sa.PrimaryKeyConstraint("workspace", "application", "task", "item"),
)
