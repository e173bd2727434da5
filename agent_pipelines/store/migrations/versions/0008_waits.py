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


LEGAL = {"held": ("waiting", "settled"), "waiting": ("arrived", "settled"), "arrived": ("settled",)}
ILLEGAL = "OLD.state <> NEW.state AND NOT ({})".format(
    " OR ".join(f"(OLD.state = '{old}' AND NEW.state IN ({', '.join(map(repr, new))}))" for old, new in LEGAL.items())
)


def upgrade() -> None:
    _human_tasks()
    _waits()
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


def _waits() -> None:
    op.create_table(
        "waits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("handle", sa.Text()),
        sa.Column("human_task_id", sa.Text()),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("poll_after_us", sa.BigInteger(), nullable=False),
        sa.Column("next_look_at", sa.BigInteger()),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.Text()),
        sa.Column("called_back_at", sa.BigInteger()),
        sa.Column("spent", JSON, nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("draft", JSON),
        sa.Column("outcome", JSON),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("continuations", sa.Integer(), nullable=False),
        sa.Column("cancel", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waits")),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name=op.f("fk_waits_execution_id"), ondelete="CASCADE"),
        sa.CheckConstraint("kind IN ('remote', 'human')", name=op.f("ck_waits_kind")),
        sa.CheckConstraint("state IN ('held', 'waiting', 'arrived', 'settled')", name=op.f("ck_waits_state")),
        sa.CheckConstraint("cancel IS NULL OR cancel IN ('asked', 'done', 'failed')", name=op.f("ck_waits_cancel")),
        sa.CheckConstraint(
            "(kind = 'remote') = (handle IS NOT NULL) AND (kind = 'human') = (human_task_id IS NOT NULL)",
            name=op.f("ck_waits_for"),
        ),
        sa.CheckConstraint("(state IN ('held', 'waiting')) = (ended_at IS NULL)", name=op.f("ck_waits_ended")),
        sa.CheckConstraint("state <> 'arrived' OR outcome IS NOT NULL", name=op.f("ck_waits_arrived")),
    )
    unsettled, due = sa.text("state <> 'settled'"), sa.text("next_look_at IS NOT NULL")
    op.create_index(
        "uq_waits_unsettled", "waits", ["execution_id"], unique=True, sqlite_where=unsettled, postgresql_where=unsettled
    )
    op.create_index("ix_waits_execution", "waits", ["execution_id", "attempt"])
    op.create_index("ix_waits_human_task", "waits", ["human_task_id"])
    op.create_index("ix_waits_due", "waits", ["next_look_at"], sqlite_where=due, postgresql_where=due)


def _sqlite() -> None:
    for statement in (
        "CREATE TRIGGER human_tasks_answered BEFORE UPDATE ON human_tasks WHEN OLD.answered_at IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'the human task has its answer'); END",
        f"CREATE TRIGGER waits_legal BEFORE UPDATE OF state ON waits WHEN {ILLEGAL} "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition of a wait'); END",
    ):
        op.get_bind().exec_driver_sql(statement)


def _postgresql() -> None:
    refuse = (
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} THEN "
        "RAISE EXCEPTION '{words}' USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
    for statement in (
        refuse.format(
            name="human_tasks_answered", condition="OLD.answered_at IS NOT NULL", words="the human task has its answer"
        ),
        "CREATE TRIGGER human_tasks_answered BEFORE UPDATE ON human_tasks FOR EACH ROW EXECUTE FUNCTION human_tasks_answered()",
        refuse.format(name="waits_legal", condition=ILLEGAL, words="illegal transition of a wait"),
        "CREATE TRIGGER waits_legal BEFORE UPDATE OF state ON waits FOR EACH ROW EXECUTE FUNCTION waits_legal()",
    ):
        op.get_bind().exec_driver_sql(statement)
