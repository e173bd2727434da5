"""What executions wait for."""

revision = "0008_waits"
down_revision = "0007_effects"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
