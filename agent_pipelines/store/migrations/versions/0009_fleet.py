"""Nodes of agents, what they work on, and their health."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009_fleet"
down_revision = "0008_waits"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "agent_outages",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("since_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_agent_outages")),
    )
    op.create_index("ix_agent_outages_agent", "agent_outages", ["agent", "seq"])
    op.create_index(
        "ux_agent_outages_running",
        "agent_outages",
        ["agent"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "node_breakers",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger()),
        sa.Column("openings", sa.Integer(), server_default="0", nullable=False),
        sa.Column("opened_at", sa.BigInteger()),
        sa.Column("retry_at", sa.BigInteger()),
        sa.Column("probe", sa.Text()),
        sa.Column("probe_until", sa.BigInteger()),
        sa.Column("error_class", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(state = 'closed') = (opened_at IS NULL)", name=op.f("ck_node_breakers_opened")),
        sa.CheckConstraint(
            "(state = 'half_open') = (probe IS NOT NULL AND probe_until IS NOT NULL)", name=op.f("ck_node_breakers_probe")
        ),
        sa.CheckConstraint("(state = 'open') = (retry_at IS NOT NULL)", name=op.f("ck_node_breakers_retry")),
        sa.CheckConstraint("state IN ('closed', 'open', 'half_open')", name=op.f("ck_node_breakers_state")),
        sa.PrimaryKeyConstraint("agent", "node", name=op.f("pk_node_breakers")),
    )
    op.create_table(
        "node_loads",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("permits", sa.Integer(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("in_flight >= 0 AND permits >= 0", name=op.f("ck_node_loads_counts")),
        sa.PrimaryKeyConstraint("agent", "node", "process", name=op.f("pk_node_loads")),
    )
    op.create_table(
        "node_sessions",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "mode", "name", "agent", name=op.f("pk_node_sessions")),
    )
    op.create_table(
        "nodes",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("capacity", sa.Integer()),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("draining_at", sa.BigInteger()),
        sa.Column("worker", sa.Text()),
        sa.Column("runtime", sa.Text()),
        sa.Column("beat_at", sa.BigInteger()),
        sa.Column("placed", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("source = 'registered' OR (worker IS NULL AND beat_at IS NULL)", name=op.f("ck_nodes_beat")),
        sa.CheckConstraint("source IN ('declared', 'registered')", name=op.f("ck_nodes_source")),
        sa.CheckConstraint("capacity >= 1", name=op.f("ck_nodes_capacity")),
        sa.PrimaryKeyConstraint("agent", "name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "work_orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("invocation", JSON),
        sa.Column("lease_us", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("claimed_at", sa.BigInteger()),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("last_seq", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure", JSON),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("collected_at", sa.BigInteger()),
        sa.CheckConstraint("(state IN ('queued', 'claimed')) = (ended_at IS NULL)", name=op.f("ck_work_orders_ended")),
        sa.CheckConstraint(
            "state <> 'claimed' OR (worker IS NOT NULL AND lease_until IS NOT NULL)", name=op.f("ck_work_orders_claimed")
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'claimed', 'finished', 'lost', 'withdrawn', 'cancelled')", name=op.f("ck_work_orders_state")
        ),
        sa.CheckConstraint("fence >= 1", name=op.f("ck_work_orders_fence")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_orders")),
        sa.UniqueConstraint("key", "fence", name=op.f("uq_work_orders_key_fence")),
    )
    op.create_index("ix_work_orders_ended", "work_orders", ["ended_at"])
    op.create_index("ix_work_orders_node", "work_orders", ["agent", "node", "created_at"])
    op.create_index(
        "ix_work_orders_queued",
        "work_orders",
        ["agent", "node", "created_at"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ux_work_orders_open",
        "work_orders",
        ["key"],
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'claimed')"),
        postgresql_where=sa.text("state IN ('queued', 'claimed')"),
    )
    op.create_table(
        "order_events",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("event", JSON, nullable=False),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_order_events_seq")),
        sa.ForeignKeyConstraint(["order_id"], ["work_orders.id"], name=op.f("fk_order_events_order_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("order_id", "seq", name=op.f("pk_order_events")),
    )
    op.create_index("ix_attempts_node", "attempts", ["agent", "node", "started_at"])
    op.create_index(
        "ix_attempts_running",
        "attempts",
        ["agent", "node"],
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
