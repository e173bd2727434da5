"""Effects with their receipts.

The legal changes are written out here, not imported: a migration must mean the same for ever. A test compares them with
`agent_pipelines.core.effect.EFFECT_TRANSITIONS`.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007_effects"
down_revision = "0006_run_claims"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")

LEGAL = {
    "intended": ("done", "failed", "unknown"),
    "unknown": ("intended", "done", "failed", "abandoned"),
    "failed": ("intended", "abandoned"),
}
ILLEGAL = "NOT ({})".format(
    " OR ".join(f"(OLD.status = '{old}' AND NEW.status IN ({', '.join(map(repr, new))}))" for old, new in LEGAL.items())
)


def upgrade() -> None:
    op.create_table(
        "effects",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text()),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("request", JSON),
        sa.Column("receipt", JSON),
        sa.Column("error", sa.Text()),
        sa.Column("intended_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("settled_by", sa.Text()),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_effects")),
        sa.UniqueConstraint("id", name=op.f("uq_effects_id")),
        sa.UniqueConstraint("workspace", "key", name=op.f("uq_effects_workspace_key")),
        sa.CheckConstraint("tries >= 1", name=op.f("ck_effects_tries")),
        sa.CheckConstraint("status IN ('intended', 'done', 'failed', 'unknown', 'abandoned')", name=op.f("ck_effects_status")),
        sa.CheckConstraint("(status = 'intended') = (ended_at IS NULL)", name=op.f("ck_effects_ended")),
        sa.CheckConstraint("(status IN ('done', 'abandoned')) = (settled_by IS NOT NULL)", name=op.f("ck_effects_settled")),
    )
    op.create_index("ix_effects_execution", "effects", ["execution_id", "seq"])
    op.create_index("ix_effects_status", "effects", ["workspace", "status", "seq"])
    for statement in _sqlite() if op.get_bind().dialect.name == "sqlite" else _postgresql():
        op.get_bind().exec_driver_sql(statement)


def _sqlite() -> list[str]:
    return [
        f"CREATE TRIGGER effects_legal BEFORE UPDATE OF status ON effects WHEN OLD.status <> NEW.status AND {ILLEGAL} "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition of an effect'); END",
        "CREATE TRIGGER effects_start BEFORE INSERT ON effects WHEN NEW.status <> 'intended' "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition of an effect'); END",
    ]


def _postgresql() -> list[str]:
    refuse = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {illegal} THEN "
    refuse += "RAISE EXCEPTION 'illegal transition of {what}' USING ERRCODE = 'integrity_constraint_violation'; "
    refuse += "END IF; RETURN NEW; END $$"
    legal = f"OLD.status <> NEW.status AND {ILLEGAL}"
    return [
        refuse.format(name="effects_legal", illegal=legal, what="an effect"),
        "CREATE TRIGGER effects_legal BEFORE UPDATE OF status ON effects FOR EACH ROW EXECUTE FUNCTION effects_legal()",
        refuse.format(name="effects_start", illegal="NEW.status <> 'intended'", what="an effect"),
        "CREATE TRIGGER effects_start BEFORE INSERT ON effects FOR EACH ROW EXECUTE FUNCTION effects_start()",
    ]
