"""Triggers, their history, registered tasks and bursts; ticks know their lane."""

import sqlalchemy as sa
from alembic import op

revision = "0005_the_clock"
down_revision = "0004_ticks_of_a_task"
branch_labels = None
depends_on = None

TASK = ("workspace", "application", "task")
SOURCE = "source IN ('declared', 'registered')"
STATE = "state IN ('on', 'off', 'paused', 'removed')"
APPEND_ONLY = ("trigger_history", "registered_task_versions")


def upgrade() -> None:
    _ticks()
    _triggers()
    _registered()
    _bursts()
    live = "status IN ('running', 'waiting')"
    _index("ix_executions_live", "executions", [*TASK, "trigger"], live)
    for table in APPEND_ONLY:
        _append_only(table)


def _ticks() -> None:
    op.add_column("ticks", sa.Column("begins_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("ticks", sa.Column("lane", sa.Text(), nullable=False, server_default="run"))
    op.add_column("ticks", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("ticks", sa.Column("spec_hash", sa.Text()))
    op.add_column("ticks", sa.Column("waits_for", sa.Text()))
    op.execute("UPDATE ticks SET begins_at = due_at")
    free = "verdict IS NULL AND lane = 'burst' AND run_id IS NULL AND waits_for IS NULL"
    _index("ix_ticks_burst", "ticks", ["workspace", "begins_at"], free)
    _index("ix_ticks_queued", "ticks", ["waits_for"], "verdict IS NULL AND waits_for IS NOT NULL")


def _triggers() -> None:
    op.create_table(
        "triggers",
        sa.Column("seq", _sequence(), primary_key=True, autoincrement=True),
        *_task(),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("definition", _json(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec_hash", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("looked_until", sa.BigInteger(), nullable=False),
        sa.Column("next_due_at", sa.BigInteger()),
        sa.Column("marks", _json(), nullable=False),
        sa.UniqueConstraint(*TASK, "trigger", name="uq_triggers_workspace_application_task_trigger"),
        sa.CheckConstraint(SOURCE, name="ck_triggers_source"),
        sa.CheckConstraint(STATE, name="ck_triggers_state"),
        sa.CheckConstraint("next_due_at IS NULL OR (state = 'on' AND next_due_at > looked_until)", name="ck_triggers_next_due"),
    )
    _index("ix_triggers_next_due", "triggers", ["next_due_at"], "next_due_at IS NOT NULL")
    op.create_table(
        "trigger_history",
        sa.Column("seq", _sequence(), primary_key=True, autoincrement=True),
        *_task(),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("definition", _json(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("observed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(SOURCE, name="ck_trigger_history_source"),
        sa.CheckConstraint(STATE, name="ck_trigger_history_state"),
    )
    op.create_index("ix_trigger_history_trigger", "trigger_history", [*TASK, "trigger", "seq"])


def _registered() -> None:
    op.create_table(
        "registered_tasks",
        sa.Column("seq", _sequence(), primary_key=True, autoincrement=True),
        *_task(),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "spec_hash", sa.Text(), sa.ForeignKey("task_specs.spec_hash", name="fk_registered_tasks_spec_hash"), nullable=False
        ),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint(*TASK, name="uq_registered_tasks_workspace_application_task"),
        sa.CheckConstraint("version >= 1", name="ck_registered_tasks_version"),
        sa.CheckConstraint("state IN ('enabled', 'disabled', 'paused', 'removed')", name="ck_registered_tasks_state"),
    )
    op.create_index("ix_registered_tasks_agent", "registered_tasks", ["workspace", "agent", "application", "task"])
    op.create_table(
        "registered_task_versions",
        *_task(),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "spec_hash",
            sa.Text(),
            sa.ForeignKey("task_specs.spec_hash", name="fk_registered_task_versions_spec_hash"),
            nullable=False,
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*TASK, "version", name="pk_registered_task_versions"),
    )


def _bursts() -> None:
    op.create_table(
        "bursts",
        sa.Column("seq", _sequence(), primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("launched_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger()),
        sa.Column("beat_at", sa.BigInteger()),
        sa.Column("in_flight", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("done", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("closing_at", sa.BigInteger()),
        sa.Column("closed_at", sa.BigInteger()),
        sa.UniqueConstraint("run_id", name="uq_bursts_run_id"),
    )
    _index("ix_bursts_live", "bursts", ["workspace"], "closed_at IS NULL")
    op.create_table(
        "daemons",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
    )


def _task() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in TASK]


def _sequence() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _json() -> sa.types.TypeEngine[object]:
    from sqlalchemy.dialects.postgresql import JSONB

    return sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _append_only(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.get_bind().exec_driver_sql(
                f"CREATE TRIGGER {table}_append_only_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.get_bind().exec_driver_sql(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.get_bind().exec_driver_sql(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
    )
