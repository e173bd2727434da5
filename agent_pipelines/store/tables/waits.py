"""What executions wait for: work that goes on elsewhere, and people."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, metadata, one_of

KINDS = ("remote", "human")
"""What a wait can be for."""

STATES = ("held", "waiting", "arrived", "settled")
"""How a wait goes: a process holds it, nobody does, its outcome has arrived, its attempt has ended."""

CANCELS = ("asked", "done", "failed")
"""How the cancelling of remote work goes."""

waits = sa.Table(
    "waits",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("execution_id", sa.Text, sa.ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("handle", sa.Text),
    sa.Column("human_task_id", sa.Text),
    sa.Column("began_at", Instant, nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("deadline_at", Instant, nullable=False),
    sa.Column("poll_after_us", sa.BigInteger, nullable=False),
    sa.Column("next_look_at", Instant),
    sa.Column("looks", sa.Integer, nullable=False, default=0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("last_error", sa.Text),
    sa.Column("lease_until", Instant),
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    sa.Column("token_hash", sa.Text),
    sa.Column("called_back_at", Instant),
    sa.Column("spent", Json, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("draft", Json),
    sa.Column("outcome", Json),
    sa.Column("ended_at", Instant),
    sa.Column("continuations", sa.Integer, nullable=False, default=0),
    sa.Column("cancel", sa.Text),
    sa.CheckConstraint(one_of("kind", KINDS), name="kind"),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.CheckConstraint(f"cancel IS NULL OR {one_of('cancel', CANCELS)}", name="cancel"),
    sa.CheckConstraint("(kind = 'remote') = (handle IS NOT NULL) AND (kind = 'human') = (human_task_id IS NOT NULL)", name="for"),
    sa.CheckConstraint("(state IN ('held', 'waiting')) = (ended_at IS NULL)", name="ended"),
    sa.CheckConstraint("state <> 'arrived' OR outcome IS NOT NULL", name="arrived"),
    sa.Index(
        "uq_waits_unsettled",
        "execution_id",
        unique=True,
        sqlite_where=sa.text("state <> 'settled'"),
        postgresql_where=sa.text("state <> 'settled'"),
    ),
    sa.Index("ix_waits_execution", "execution_id", "attempt"),
    sa.Index("ix_waits_human_task", "human_task_id"),
    sa.Index(
        "ix_waits_due",
        "next_look_at",
        sqlite_where=sa.text("next_look_at IS NOT NULL"),
        postgresql_where=sa.text("next_look_at IS NOT NULL"),
    ),
)
