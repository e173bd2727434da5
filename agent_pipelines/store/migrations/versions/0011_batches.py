"""Batches, their shards and items."""

revision = "0011_batches"
down_revision = "0010_flow"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
