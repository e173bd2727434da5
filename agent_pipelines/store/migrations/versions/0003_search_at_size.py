"""Lists of executions stay fast with millions of them: indexes for the conditions, and conditions in the index of words."""

import sqlalchemy as sa
from alembic import op

revision = "0003_search_at_size"
down_revision = "0002_state_machine_and_search"
branch_labels = None
depends_on = None

FACETS = (
    "SELECT 'w_' || workspace || ' a_' || application || ' t_' || task || ' s_' || status || ' o_' || origin "
    "FROM executions WHERE executions.seq = execution_texts.seq"
)


def upgrade() -> None:
    op.create_index("ix_executions_workspace", "executions", ["workspace", "seq"])
    op.create_index("ix_executions_application", "executions", ["workspace", "application", "seq"])
    op.create_index("ix_executions_origin", "executions", ["workspace", "origin", "seq"])
    op.create_index("ix_executions_task_status", "executions", ["workspace", "application", "task", "status", "seq"])
    op.add_column("execution_texts", sa.Column("facets", sa.Text(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()


def _sqlite() -> None:
    columns, old, new = "rowid, facets, body", "OLD.seq, OLD.facets, OLD.body", "NEW.seq, NEW.facets, NEW.body"
    remove = f"INSERT INTO execution_search (execution_search, {columns}) VALUES ('delete', {old}); "
    add = f"INSERT INTO execution_search ({columns}) VALUES ({new}); "
    _execute(
        "DROP TRIGGER execution_texts_added",
        "DROP TRIGGER execution_texts_removed",
        "DROP TRIGGER execution_texts_changed",
        "DROP TABLE execution_search",
        f"UPDATE execution_texts SET facets = ({FACETS})",
        "CREATE VIRTUAL TABLE execution_search USING fts5(facets, body, content='execution_texts', content_rowid='seq', "
        "detail='full', tokenize=\"unicode61 tokenchars '_-'\")",
        "INSERT INTO execution_search (execution_search) VALUES ('rebuild')",
        f"CREATE TRIGGER execution_texts_added AFTER INSERT ON execution_texts BEGIN {add}END",
        f"CREATE TRIGGER execution_texts_removed AFTER DELETE ON execution_texts BEGIN {remove}END",
        f"CREATE TRIGGER execution_texts_changed AFTER UPDATE ON execution_texts BEGIN {remove}{add}END",
    )


def _postgresql() -> None:
    words = "to_tsvector('simple', left(body, 500000)) || array_to_tsvector(string_to_array(coalesce(facets, ''), ' '))"
    _execute(
        "ALTER TABLE execution_texts DROP COLUMN words",
        f"UPDATE execution_texts SET facets = ({FACETS})",
        f"ALTER TABLE execution_texts ADD COLUMN words tsvector GENERATED ALWAYS AS ({words}) STORED",
        "CREATE INDEX ix_execution_texts_words ON execution_texts USING gin (words)",
    )


def _execute(*statements: str) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
