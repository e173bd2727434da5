"""What executions wait for, and what people are asked; an answer that was given is never changed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008_waits"
down_revision = "0007_effects"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _human_tasks()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()


def _human_tasks() -> None:
    op.create_table(
        "human_tasks",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text()),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("context", JSON, nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text()),
        sa.Column("answer_data", JSON),
        sa.Column("answered_at", sa.BigInteger()),
        sa.Column("answered_by", sa.Text()),
        sa.Column("comment", sa.Text()),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_human_tasks")),
        sa.UniqueConstraint("id", name=op.f("uq_human_tasks_id")),
        sa.CheckConstraint("subject IN ('effect', 'degraded', 'approval', 'question')", name=op.f("ck_human_tasks_subject")),
        sa.CheckConstraint(
            "(answered_at IS NULL) = (answer IS NULL) AND (answered_at IS NULL) = (answered_by IS NULL)",
            name=op.f("ck_human_tasks_answered"),
        ),
    )
    is_open = sa.text("answered_at IS NULL")
    op.create_index(
        "uq_human_tasks_open",
        "human_tasks",
        ["workspace", "subject", "subject_id"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("ix_human_tasks_subject", "human_tasks", ["workspace", "subject", "subject_id", "seq"])
    op.create_index("ix_human_tasks_workspace", "human_tasks", ["workspace", "seq"])
    op.create_index("ix_human_tasks_task", "human_tasks", ["workspace", "application", "task", "seq"])
    op.create_index("ix_human_tasks_execution", "human_tasks", ["execution_id"])


def _sqlite() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE TRIGGER human_tasks_answered BEFORE UPDATE ON human_tasks WHEN OLD.answered_at IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'the human task has its answer'); END"
    )


def _postgresql() -> None:
    raise_ = "RAISE EXCEPTION 'the human task has its answer' USING ERRCODE = 'integrity_constraint_violation';"
    for statement in (
        "CREATE FUNCTION human_tasks_answered() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF OLD.answered_at IS NOT NULL THEN {raise_} END IF; RETURN NEW; END $$",
        "CREATE TRIGGER human_tasks_answered BEFORE UPDATE ON human_tasks FOR EACH ROW EXECUTE FUNCTION human_tasks_answered()",
    ):
        op.get_bind().exec_driver_sql(statement)
