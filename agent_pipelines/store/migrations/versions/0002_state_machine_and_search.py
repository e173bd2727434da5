"""The database refuses illegal changes of state; words find executions.

The legal changes are written out here, not imported: a migration must mean the same for ever. A test compares them
with `agent_pipelines.core.execution.TRANSITIONS`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_state_machine_and_search"
down_revision = "0001_record"
branch_labels = None
depends_on = None

LEGAL = {
    "running": ("waiting", "succeeded", "failed", "cancelled", "skipped"),
    "waiting": ("running", "failed", "cancelled"),
    "failed": ("running",),
    "cancelled": ("running",),
}
ILLEGAL = "NOT ({})".format(
    " OR ".join(f"(OLD.status = '{old}' AND NEW.status IN ({', '.join(map(repr, new))}))" for old, new in LEGAL.items())
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()
    op.execute(
        sa.text(
            "INSERT INTO execution_texts (seq, body) SELECT seq, coalesce(task, '') || ' ' || coalesce(text, '') || ' ' || "
            "coalesce(error_message, '') FROM executions WHERE seq NOT IN (SELECT seq FROM execution_texts)"
        )
    )


def _sqlite() -> None:
    statements = [
        f"CREATE TRIGGER executions_legal BEFORE UPDATE OF status ON executions WHEN OLD.status <> NEW.status AND {ILLEGAL} "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition of an execution'); END",
        "CREATE TRIGGER executions_start BEFORE INSERT ON executions WHEN NEW.status <> 'running' "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition of an execution'); END",
        "CREATE TRIGGER ticks_final BEFORE UPDATE OF verdict ON ticks WHEN OLD.verdict IS NOT NULL AND "
        "OLD.verdict IS NOT NEW.verdict BEGIN SELECT RAISE(ABORT, 'illegal transition of a tick'); END",
        "CREATE TRIGGER audit_append_only_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END",
        "CREATE TRIGGER audit_append_only_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END",
        "CREATE VIRTUAL TABLE execution_search USING fts5(body, content='execution_texts', content_rowid='seq', "
        "detail='full', tokenize=\"unicode61 tokenchars '_-'\")",
        "CREATE TRIGGER execution_texts_added AFTER INSERT ON execution_texts BEGIN "
        "INSERT INTO execution_search (rowid, body) VALUES (NEW.seq, NEW.body); END",
        "CREATE TRIGGER execution_texts_removed AFTER DELETE ON execution_texts BEGIN "
        "INSERT INTO execution_search (execution_search, rowid, body) VALUES ('delete', OLD.seq, OLD.body); END",
        "CREATE TRIGGER execution_texts_changed AFTER UPDATE ON execution_texts BEGIN "
        "INSERT INTO execution_search (execution_search, rowid, body) VALUES ('delete', OLD.seq, OLD.body); "
        "INSERT INTO execution_search (rowid, body) VALUES (NEW.seq, NEW.body); END",
    ]
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _postgresql() -> None:
    refuse = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    raise_ = "RAISE EXCEPTION '{}' USING ERRCODE = 'integrity_constraint_violation';"
    legal = f"IF OLD.status <> NEW.status AND {ILLEGAL} THEN {raise_.format('illegal transition of an execution')} END IF; RETURN NEW;"
    start = f"IF NEW.status <> 'running' THEN {raise_.format('illegal transition of an execution')} END IF; RETURN NEW;"
    final = (
        "IF OLD.verdict IS NOT NULL AND OLD.verdict IS DISTINCT FROM NEW.verdict "
        f"THEN {raise_.format('illegal transition of a tick')} END IF; RETURN NEW;"
    )
    statements = [
        refuse.format(name="executions_legal", body=legal),
        "CREATE TRIGGER executions_legal BEFORE UPDATE OF status ON executions FOR EACH ROW EXECUTE FUNCTION executions_legal()",
        refuse.format(name="executions_start", body=start),
        "CREATE TRIGGER executions_start BEFORE INSERT ON executions FOR EACH ROW EXECUTE FUNCTION executions_start()",
        refuse.format(name="ticks_final", body=final),
        "CREATE TRIGGER ticks_final BEFORE UPDATE OF verdict ON ticks FOR EACH ROW EXECUTE FUNCTION ticks_final()",
        refuse.format(name="audit_append_only", body=raise_.format("audit is append-only")),
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_append_only()",
        "ALTER TABLE execution_texts ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple', left(body, 500000))) STORED",
        "CREATE INDEX ix_execution_texts_words ON execution_texts USING gin (words)",
    ]
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
