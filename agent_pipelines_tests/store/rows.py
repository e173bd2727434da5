"""Rows as the owning classes write them, for tests below those classes."""

from typing import Any

import sqlalchemy as sa

from agent_pipelines.core.ids import new_id
from agent_pipelines.store.tables import executions, task_specs


def insert_execution(connection: sa.Connection, **values: Any) -> str:
    """Insert a running execution and return its id."""
    task = {"workspace": "default", "application": "app", "task": "job"}
    if connection.execute(sa.select(task_specs.c.spec_hash)).first() is None:
        connection.execute(task_specs.insert().values(spec_hash="h", spec={}, created_at=1, **task))
    row: dict[str, Any] = {
        "id": new_id(),
        "spec_hash": "h",
        "idempotency_key": new_id(),
        "trigger": "cron",
        "origin": "schedule",
        "occurrence": "1",
        "actor": "system",
        "due_at": 1,
        "logical_at": 1,
        "invocation": {},
        "run_id": "run",
        "status": "running",
        "created_at": 1,
    }
    connection.execute(executions.insert().values(**{**task, **row, **values}))
    return str({**row, **values}["id"])
