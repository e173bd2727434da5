"""Results that identical calls share, and how a result was come by."""

import sqlalchemy as sa
from alembic import op

revision = "0012_results"
down_revision = "0011_batches"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("runtime_tries", sa.Integer()))
    for name in ("stale_from", "cached_from", "fallback_from"):
        op.add_column("executions", sa.Column(name, sa.Text()))
    # As text: SQLite adds a constraint with a column only, and Alembic does not write it so.
    op.execute(
        "ALTER TABLE executions ADD COLUMN degraded TEXT CONSTRAINT ck_executions_degraded "
        "CHECK (degraded IN ('stale', 'partial', 'human', 'task'))"
    )
    op.create_table(
        "result_cache",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("last_hit_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_result_cache")),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_result_cache_execution_id"), ondelete="CASCADE"
        ),
        sa.CheckConstraint("expires_at > kept_at", name=op.f("ck_result_cache_expires")),
        sa.CheckConstraint("(hits > 0) = (last_hit_at IS NOT NULL)", name=op.f("ck_result_cache_hits")),
    )
    op.create_index("ix_result_cache_task", "result_cache", ["workspace", "application", "task", "kept_at"])
    op.create_index("ix_result_cache_expires", "result_cache", ["expires_at"])
    op.create_index("ix_result_cache_execution", "result_cache", ["execution_id"])
