"""What people are asked, and what they decided."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, one_of, task_columns

SUBJECTS = ("effect", "degraded", "approval", "question")
"""What a human task can be about."""

human_tasks = sa.Table(
    "human_tasks",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    *task_columns(),
    sa.Column("execution_id", sa.Text),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("subject_id", sa.Text, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("context", Json, nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("opened_by", sa.Text, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Column("answer_data", Json),
    sa.Column("answered_at", Instant),
    sa.Column("answered_by", sa.Text),
    sa.Column("comment", sa.Text),
    sa.CheckConstraint(one_of("subject", SUBJECTS), name="subject"),
    sa.CheckConstraint(
        "(answered_at IS NULL) = (answer IS NULL) AND (answered_at IS NULL) = (answered_by IS NULL)", name="answered"
    ),
    sa.Index(
        "uq_human_tasks_open",
        "workspace",
        "subject",
        "subject_id",
        unique=True,
        sqlite_where=sa.text("answered_at IS NULL"),
        postgresql_where=sa.text("answered_at IS NULL"),
    ),
    sa.Index("ix_human_tasks_subject", "workspace", "subject", "subject_id", "seq"),
    sa.Index("ix_human_tasks_workspace", "workspace", "seq"),
    sa.Index("ix_human_tasks_task", "workspace", "application", "task", "seq"),
    sa.Index("ix_human_tasks_execution", "execution_id"),
)
