"""Specifications, executions, ticks, prompts, sessions and audit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001_record"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("details", JSON, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_object", "audit", ["workspace", "object", "seq"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_inbox")),
        sa.UniqueConstraint("id", name=op.f("uq_inbox_id")),
        sa.UniqueConstraint("workspace", "source", "key", name=op.f("uq_inbox_workspace_source_key")),
    )
    op.create_index("ix_inbox_type", "inbox", ["workspace", "type", "received_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=True),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_kind", "outbox", ["kind", "seq"], unique=False)
    op.create_table(
        "prompt_versions",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "application", "task", "version", name=op.f("pk_prompt_versions")),
    )
    op.create_table(
        "sessions",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("mode IN ('named', 'task', 'fresh')", name=op.f("ck_sessions_mode")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_sessions")),
        sa.UniqueConstraint("id", name=op.f("uq_sessions_id")),
        sa.UniqueConstraint("workspace", "mode", "name", "agent", name=op.f("uq_sessions_workspace_mode_name_agent")),
    )
    op.create_table(
        "task_specs",
        sa.Column("spec_hash", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("spec_hash", name=op.f("pk_task_specs")),
    )
    op.create_index("ix_task_specs_task", "task_specs", ["workspace", "application", "task", "created_at"], unique=False)
    op.create_table(
        "task_state",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", JSON, nullable=True),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_task_state")),
        sa.UniqueConstraint(
            "workspace",
            "application",
            "task",
            "key",
            "execution_id",
            name=op.f("uq_task_state_workspace_application_task_key_execution_id"),
        ),
    )
    op.create_index("ix_task_state_key", "task_state", ["workspace", "application", "task", "key", "seq"], unique=False)
    op.create_table(
        "ticks",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("trigger_revision", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("occurrence", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("logical_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("inputs", JSON, nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("execution_id", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "origin IN ('schedule', 'event', 'asset', 'after', 'on_demand', 'backfill')", name=op.f("ck_ticks_origin")
        ),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict <> 'deduplicated' OR execution_id IS NOT NULL", name=op.f("ck_ticks_deduplicated")
        ),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict <> 'ran' OR (run_id IS NOT NULL AND execution_id IS NOT NULL)", name=op.f("ck_ticks_ran")
        ),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict IN ('ran', 'deduplicated', 'skipped', 'missed', 'launch_failed')",
            name=op.f("ck_ticks_verdict"),
        ),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict NOT IN ('skipped', 'missed', 'launch_failed') OR reason IS NOT NULL",
            name=op.f("ck_ticks_reason"),
        ),
        sa.CheckConstraint("(verdict IS NULL) = (decided_at IS NULL)", name=op.f("ck_ticks_decided")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ticks")),
        sa.UniqueConstraint("id", name=op.f("uq_ticks_id")),
        sa.UniqueConstraint(
            "workspace",
            "application",
            "task",
            "trigger",
            "occurrence",
            name=op.f("uq_ticks_workspace_application_task_trigger_occurrence"),
        ),
    )
    op.create_index("ix_ticks_due", "ticks", ["due_at"], unique=False)
    op.create_index(
        "ix_ticks_open",
        "ticks",
        ["claimed_at"],
        unique=False,
        sqlite_where=sa.text("verdict IS NULL"),
        postgresql_where=sa.text("verdict IS NULL"),
    )
    op.create_table(
        "executions",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("spec_hash", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("occurrence", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("logical_at", sa.BigInteger(), nullable=False),
        sa.Column("invocation", JSON, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("partition", sa.Text(), nullable=True),
        sa.Column("resumptions", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("output", JSON, nullable=True),
        sa.Column("checks", JSON, nullable=True),
        sa.Column("trimmed", JSON, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_stage", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'failed', 'skipped', 'succeeded')) = (finished_at IS NOT NULL)",
            name=op.f("ck_executions_finished"),
        ),
        sa.CheckConstraint(
            "origin IN ('schedule', 'event', 'asset', 'after', 'on_demand', 'backfill')", name=op.f("ck_executions_origin")
        ),
        sa.CheckConstraint(
            "status <> 'failed' OR (error_class IS NOT NULL AND error_stage IS NOT NULL)", name=op.f("ck_executions_error")
        ),
        sa.CheckConstraint(
            "status IN ('running', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped')", name=op.f("ck_executions_status")
        ),
        sa.CheckConstraint(
            "status NOT IN ('succeeded', 'running', 'waiting') OR error_class IS NULL", name=op.f("ck_executions_no_error")
        ),
        sa.ForeignKeyConstraint(["spec_hash"], ["task_specs.spec_hash"], name=op.f("fk_executions_spec_hash")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_executions")),
        sa.UniqueConstraint("id", name=op.f("uq_executions_id")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_executions_idempotency_key")),
    )
    op.create_index("ix_executions_created", "executions", ["created_at"], unique=False)
    op.create_index("ix_executions_run", "executions", ["run_id"], unique=False)
    op.create_index("ix_executions_status", "executions", ["workspace", "status", "seq"], unique=False)
    op.create_index("ix_executions_task", "executions", ["workspace", "application", "task", "seq"], unique=False)
    op.create_index(
        "uq_executions_dedupe",
        "executions",
        ["workspace", "application", "task", "dedupe_key"],
        unique=True,
        sqlite_where=sa.text("dedupe_key IS NOT NULL AND status IN ('running', 'waiting', 'succeeded')"),
        postgresql_where=sa.text("dedupe_key IS NOT NULL AND status IN ('running', 'waiting', 'succeeded')"),
    )
    op.create_table(
        "prompt_moves",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("channel IN ('stable', 'canary', 'holdback')", name=op.f("ck_prompt_moves_channel")),
        sa.ForeignKeyConstraint(
            ["workspace", "application", "task", "version"],
            ["prompt_versions.workspace", "prompt_versions.application", "prompt_versions.task", "prompt_versions.version"],
            name="fk_prompt_moves_version",
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_prompt_moves")),
    )
    op.create_index(
        "ix_prompt_moves_channel", "prompt_moves", ["workspace", "application", "task", "channel", "seq"], unique=False
    )
    op.create_table(
        "session_turns",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("role IN ('user', 'assistant')", name=op.f("ck_session_turns_role")),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_session_turns_session_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_session_turns")),
        sa.UniqueConstraint("session_id", "execution_id", "role", name=op.f("uq_session_turns_session_id_execution_id_role")),
    )
    op.create_index("ix_session_turns_session", "session_turns", ["session_id", "seq"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_stage", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_status", sa.Integer(), nullable=True),
        sa.Column("retry_decision", sa.Text(), nullable=True),
        sa.Column("retry_delay_us", sa.BigInteger(), nullable=True),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.CheckConstraint("(status = 'running') = (finished_at IS NULL)", name=op.f("ck_attempts_finished")),
        sa.CheckConstraint(
            "status <> 'failed' OR (error_class IS NOT NULL AND retry_decision IS NOT NULL)", name=op.f("ck_attempts_error")
        ),
        sa.CheckConstraint("status IN ('running', 'succeeded', 'failed', 'cancelled', 'lost')", name=op.f("ck_attempts_status")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name=op.f("fk_attempts_execution_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "events",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name=op.f("fk_events_execution_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id", "seq", name=op.f("pk_events")),
    )
    op.create_table(
        "execution_texts",
        sa.Column("seq", SEQUENCE, autoincrement=False, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["executions.seq"], name=op.f("fk_execution_texts_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_execution_texts")),
    )
    op.create_table(
        "spans",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("span_id", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.CheckConstraint("status IN ('ok', 'error')", name=op.f("ck_spans_status")),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name=op.f("fk_spans_execution_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id", "span_id", name=op.f("pk_spans")),
    )
    op.create_index("ix_spans_trace", "spans", ["trace_id"], unique=False)
