"""Who changed what."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Index("ix_audit_object", "workspace", "object", "seq"),
)
