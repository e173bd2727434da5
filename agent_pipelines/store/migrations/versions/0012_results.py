"""Results that identical calls share."""

revision = "0012_results"
down_revision = "0011_batches"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
