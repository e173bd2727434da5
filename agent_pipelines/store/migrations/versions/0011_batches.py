"""Batches, their shards and items.

The legal changes are written out here, not imported: a migration must mean the same for ever.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011_batches"
down_revision = "0010_flow"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")

LEGAL = {
    "batches": {
        "splitting": ("running", "failed", "cancelled"),
        "running": ("merging", "failed", "cancelled"),
        "merging": ("succeeded", "failed", "cancelled"),
        "succeeded": ("running",),
        "failed": ("splitting", "running"),
        "cancelled": ("splitting", "running"),
    },
    "batch_shards": {
        "pending": ("running", "failed", "cancelled"),
        "running": ("pending", "succeeded", "failed", "cancelled"),
        "succeeded": ("pending",),
        "failed": ("pending",),
        "cancelled": ("pending",),
    },
}


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("seq", SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("occurrence", sa.Text(), nullable=False),
        sa.Column("spec_hash", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("invocation", JSON, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("shard_size", sa.Integer(), nullable=False),
        sa.Column("item_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("shard_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("fingerprint", JSON),
        sa.Column("done", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("failed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("skipped", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("reopened_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_batches")),
        sa.UniqueConstraint("id", name=op.f("uq_batches_id")),
        sa.UniqueConstraint(
            "workspace",
            "application",
            "task",
            "trigger",
            "occurrence",
            name=op.f("uq_batches_workspace_application_task_trigger_occurrence"),
        ),
        sa.CheckConstraint(
            "status IN ('splitting', 'running', 'merging', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_batches_status")
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'failed', 'succeeded')) = (finished_at IS NOT NULL)", name=op.f("ck_batches_finished")
        ),
    )
    op.create_index("ix_batches_workspace", "batches", ["workspace", "seq"])
    op.create_index("ix_batches_execution", "batches", ["execution_id"])
    _partial("ix_batches_live", "batches", ["workspace"], "finished_at IS NULL")
    op.create_table(
        "batch_shards",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sa.Column("seek_hint", sa.BigInteger()),
        sa.Column("items", sa.LargeBinary()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("beat_at", sa.BigInteger()),
        sa.Column("done", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("skipped", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cost_usd", sa.Double(), nullable=False, server_default="0"),
        sa.Column("tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("reason", sa.Text()),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_shards")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_shards_batch_id"), ondelete="CASCADE"),
        sa.CheckConstraint("first_position >= 0 AND last_position >= first_position", name=op.f("ck_batch_shards_positions")),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_batch_shards_status")
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'failed', 'succeeded')) = (finished_at IS NOT NULL)", name=op.f("ck_batch_shards_finished")
        ),
        sa.CheckConstraint(
            "status <> 'running' OR (run_id IS NOT NULL AND beat_at IS NOT NULL)", name=op.f("ck_batch_shards_worked_on")
        ),
    )
    op.create_index("ix_batch_shards_run", "batch_shards", ["run_id"])
    _partial("ix_batch_shards_running", "batch_shards", ["beat_at"], "status = 'running'")
    op.create_table(
        "item_versions",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "application", "task", "item", name=op.f("pk_item_versions")),
    )
    op.add_column("executions", sa.Column("batch_id", sa.Text()))
    op.add_column("executions", sa.Column("shard", sa.Integer()))
    op.add_column("executions", sa.Column("position", sa.BigInteger()))
    _partial("uq_executions_batch", "executions", ["batch_id", "position"], "batch_id IS NOT NULL", unique=True)
    for table in LEGAL:
        _guard(table)


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _guard(table: str) -> None:
    """Have the database refuse illegal changes of state."""
    legal = " OR ".join(
        f"(OLD.status = '{old}' AND NEW.status IN ({', '.join(map(repr, new))}))" for old, new in LEGAL[table].items()
    )
    illegal = f"OLD.status <> NEW.status AND NOT ({legal})"
    words = f"illegal transition of {table}"
    name = f"{table}_legal"
    if op.get_bind().dialect.name == "sqlite":
        statements = [
            f"CREATE TRIGGER {name} BEFORE UPDATE OF status ON {table} WHEN {illegal} BEGIN SELECT RAISE(ABORT, '{words}'); END"
        ]
    else:
        raises = f"RAISE EXCEPTION '{words}' USING ERRCODE = 'integrity_constraint_violation';"
        statements = [
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {illegal} THEN {raises} END IF; "
            "RETURN NEW; END $$",
            f"CREATE TRIGGER {name} BEFORE UPDATE OF status ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
        ]
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
