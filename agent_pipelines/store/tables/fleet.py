"""Nodes of agents: which there are, what they work on, their breakers, and the work that is handed to those behind a NAT."""

import sqlalchemy as sa

from agent_pipelines.store.tables.base import Instant, Json, Sequence, metadata, one_of

ORDER_STATES = ("queued", "claimed", "finished", "lost", "withdrawn", "cancelled")

_OPEN_ORDER = sa.text("state IN ('queued', 'claimed')")
_QUEUED = sa.text("state = 'queued'")
_RUNNING_OUTAGE = sa.text("ended_at IS NULL")

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("capacity", sa.Integer),
    sa.Column("labels", Json, nullable=False),
    sa.Column("registered_at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("draining_at", Instant),
    sa.Column("worker", sa.Text),
    sa.Column("runtime", sa.Text),
    sa.Column("beat_at", Instant),
    sa.Column("placed", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint(one_of("source", ("declared", "registered")), name="source"),
    sa.CheckConstraint("capacity >= 1", name="capacity"),
    sa.CheckConstraint("source = 'registered' OR (worker IS NULL AND beat_at IS NULL)", name="beat"),
)

node_loads = sa.Table(
    "node_loads",
    metadata,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("process", sa.Text, primary_key=True),
    sa.Column("in_flight", sa.Integer, nullable=False),
    sa.Column("permits", sa.Integer, nullable=False),
    sa.Column("beat_at", Instant, nullable=False),
    sa.CheckConstraint("in_flight >= 0 AND permits >= 0", name="counts"),
)

node_breakers = sa.Table(
    "node_breakers",
    metadata,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failing_since", Instant),
    sa.Column("openings", sa.Integer, nullable=False, server_default="0"),
    sa.Column("opened_at", Instant),
    sa.Column("retry_at", Instant),
    sa.Column("probe", sa.Text),
    sa.Column("probe_until", Instant),
    sa.Column("error_class", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("changed_at", Instant, nullable=False),
    sa.CheckConstraint(one_of("state", ("closed", "open", "half_open")), name="state"),
    sa.CheckConstraint("(state = 'closed') = (opened_at IS NULL)", name="opened"),
    sa.CheckConstraint("(state = 'open') = (retry_at IS NOT NULL)", name="retry"),
    sa.CheckConstraint("(state = 'half_open') = (probe IS NOT NULL AND probe_until IS NOT NULL)", name="probe"),
)

node_sessions = sa.Table(
    "node_sessions",
    metadata,
    sa.Column("workspace", sa.Text, primary_key=True),
    sa.Column("mode", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

agent_outages = sa.Table(
    "agent_outages",
    metadata,
    sa.Column("seq", Sequence, primary_key=True, autoincrement=True),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("since_at", Instant, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Index("ux_agent_outages_running", "agent", unique=True, sqlite_where=_RUNNING_OUTAGE, postgresql_where=_RUNNING_OUTAGE),
    sa.Index("ix_agent_outages_agent", "agent", "seq"),
)

work_orders = sa.Table(
    "work_orders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("invocation", Json),
    sa.Column("lease_us", sa.BigInteger, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("claimed_at", Instant),
    sa.Column("lease_until", Instant),
    sa.Column("last_seq", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failure", Json),
    sa.Column("ended_at", Instant),
    sa.Column("collected_at", Instant),
    sa.UniqueConstraint("key", "fence"),
    sa.CheckConstraint(one_of("state", ORDER_STATES), name="state"),
    sa.CheckConstraint("(state IN ('queued', 'claimed')) = (ended_at IS NULL)", name="ended"),
    sa.CheckConstraint("state <> 'claimed' OR (worker IS NOT NULL AND lease_until IS NOT NULL)", name="claimed"),
    sa.CheckConstraint("fence >= 1", name="fence"),
    sa.Index("ux_work_orders_open", "key", unique=True, sqlite_where=_OPEN_ORDER, postgresql_where=_OPEN_ORDER),
    sa.Index("ix_work_orders_queued", "agent", "node", "created_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
    sa.Index("ix_work_orders_node", "agent", "node", "created_at"),
    sa.Index("ix_work_orders_ended", "ended_at"),
)

order_events = sa.Table(
    "order_events",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("work_orders.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("event", Json, nullable=False),
    sa.CheckConstraint("seq >= 1", name="seq"),
)
