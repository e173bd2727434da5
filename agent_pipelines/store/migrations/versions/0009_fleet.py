"""Nodes of agents, what they work on, and their health."""

revision = "0009_fleet"
down_revision = "0008_waits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
