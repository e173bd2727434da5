"""Limits, who holds them, and who waits for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010_flow"
down_revision = "0009_fleet"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("requests", sa.Text()),
        sa.Column("requests_burst", sa.Integer()),
        sa.Column("tokens", sa.Text()),
        sa.Column("tokens_burst", sa.Integer()),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("place", sa.Text()),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "origin", name=op.f("pk_limits")),
        sa.CheckConstraint("concurrency >= 1", name=op.f("ck_limits_concurrency")),
        sa.CheckConstraint(
            "concurrency IS NOT NULL OR requests IS NOT NULL OR tokens IS NOT NULL", name=op.f("ck_limits_something")
        ),
    )
    turn = op.create_table(
        "flow_turn",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flow_turn")),
        sa.CheckConstraint("id = 1", name=op.f("ck_flow_turn_one")),
    )
    op.bulk_insert(turn, [{"id": 1, "turn": 0, "version": 0}])
    op.create_table(
        "permit_holders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_permit_holders")),
    )
    op.create_table(
        "permits",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("holder", "scope", name=op.f("pk_permits")),
        sa.ForeignKeyConstraint(["holder"], ["permit_holders.id"], name=op.f("fk_permits_holder"), ondelete="CASCADE"),
        sa.CheckConstraint("held >= 1", name=op.f("ck_permits_held")),
    )
    op.create_index("ix_permits_scope", "permits", ["scope"])
    op.create_table(
        "permit_demands",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("priority_class", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("waits_since", sa.BigInteger()),
        sa.Column("served_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", "number", name=op.f("pk_permit_demands")),
        sa.ForeignKeyConstraint(["holder"], ["permit_holders.id"], name=op.f("fk_permit_demands_holder"), ondelete="CASCADE"),
        sa.CheckConstraint("priority_class IN ('interactive', 'normal', 'batch')", name=op.f("ck_permit_demands_priority_class")),
        sa.CheckConstraint("(waiting > 0) = (waits_since IS NOT NULL)", name=op.f("ck_permit_demands_waits")),
    )
    op.create_table(
        "flow_rates",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("empty_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "unit", name=op.f("pk_flow_rates")),
        sa.CheckConstraint("unit IN ('requests', 'tokens')", name=op.f("ck_flow_rates_unit")),
    )
