"""Limits, who holds them, and who waits for them."""

revision = "0010_flow"
down_revision = "0009_fleet"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
