"""Effects with their receipts, and human tasks."""

revision = "0007_effects"
down_revision = "0006_run_claims"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
