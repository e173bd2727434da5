"""Limits, the processes that hold permits of them, what these processes want, and what the rates have given out."""

import sqlalchemy as sa

from agent_pipelines.core.limit import PRIORITY_CLASSES
from agent_pipelines.store.tables.base import Instant, Json, metadata, one_of

limits = sa.Table(
    "limits",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("origin", sa.Text, primary_key=True),  # `set`, or `declared:` and the project
    sa.Column("concurrency", sa.Integer),
    sa.Column("requests", sa.Text),
    sa.Column("requests_burst", sa.Integer),
    sa.Column("tokens", sa.Text),
    sa.Column("tokens_burst", sa.Integer),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("place", sa.Text),
    sa.Column("changed_at", Instant, nullable=False),
    sa.CheckConstraint("concurrency >= 1", name="concurrency"),
    sa.CheckConstraint("concurrency IS NOT NULL OR requests IS NOT NULL OR tokens IS NOT NULL", name="something"),
)

flow_turn = sa.Table(
    "flow_turn",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="one"),
)

permit_holders = sa.Table(
    "permit_holders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("beat_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
)

permits = sa.Table(
    "permits",
    metadata,
    sa.Column("holder", sa.Text, sa.ForeignKey("permit_holders.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("held", sa.Integer, nullable=False),
    sa.CheckConstraint("held >= 1", name="held"),
    sa.Index("ix_permits_scope", "scope"),
)

permit_demands = sa.Table(
    "permit_demands",
    metadata,
    sa.Column("holder", sa.Text, sa.ForeignKey("permit_holders.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("priority_class", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("waits_since", Instant),
    sa.Column("served_at", Instant, nullable=False),
    sa.CheckConstraint(one_of("priority_class", PRIORITY_CLASSES), name="priority_class"),
    sa.CheckConstraint("(waiting > 0) = (waits_since IS NOT NULL)", name="waits"),
)

flow_rates = sa.Table(
    "flow_rates",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("unit", sa.Text, primary_key=True),
    sa.Column("empty_at", Instant, nullable=False),
    sa.CheckConstraint(one_of("unit", ("requests", "tokens")), name="unit"),
)
