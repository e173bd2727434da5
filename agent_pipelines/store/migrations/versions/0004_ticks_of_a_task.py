"""The ticks of one task are found without reading all that it ever had: sensors and schedules look every few seconds."""

import sqlalchemy as sa
from alembic import op

revision = "0004_ticks_of_a_task"
down_revision = "0003_search_at_size"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_ticks_task", "ticks", ["workspace", "application", "task", "seq"])
    op.drop_index("ix_ticks_open", "ticks")
    undecided = sa.text("verdict IS NULL")
    op.create_index(
        "ix_ticks_open",
        "ticks",
        ["workspace", "application", "task", "claimed_at"],
        sqlite_where=undecided,
        postgresql_where=undecided,
    )
