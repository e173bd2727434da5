"""Runs that are executed on other machines: who has claimed which, and the workers that do."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, metadata

run_claims = sa.Table(
    "run_claims",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("queued_at", Instant, nullable=False),
    sa.Column("sent_at", Instant, nullable=False),
    sa.Column("told_at", Instant),
    sa.Column("worker", sa.Text),
    sa.Column("host", sa.Text),
    sa.Column("pid", sa.Integer),
    sa.Column("claimed_at", Instant),
    sa.Column("beat_at", Instant),
    sa.Column("cancel_asked_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("ending", sa.Text),
    sa.CheckConstraint("attempt >= 1", name="attempt"),
    sa.Index("ix_run_claims_ended", "ended_at"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queues", Json, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("beat_at", Instant, nullable=False),
)
