"""What agents are asked: versions, and which one is current."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, task_columns

prompt_versions = sa.Table(
    "prompt_versions",
    metadata,
    *task_columns(),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("system", sa.Text),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.PrimaryKeyConstraint("workspace", "application", "task", "version"),
)

prompt_moves = sa.Table(
    "prompt_moves",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    *task_columns(),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("moved_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(
        ["workspace", "application", "task", "version"],
        ["prompt_versions.workspace", "prompt_versions.application", "prompt_versions.task", "prompt_versions.version"],
        name="fk_prompt_moves_version",
    ),
    sa.CheckConstraint("channel IN ('stable', 'canary', 'holdback')", name="channel"),
    sa.Index("ix_prompt_moves_channel", "workspace", "application", "task", "channel", "seq"),
)
