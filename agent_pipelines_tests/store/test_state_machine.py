import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from agent_pipelines.core.execution import FINAL, TRANSITIONS, Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import audit, executions, ticks
from agent_pipelines_tests.store.rows import insert_execution


def _fields(status: Status) -> dict[str, Any]:
    failed = status is Status.FAILED
    return {
        "status": str(status),
        "finished_at": 2 if status in FINAL else None,
        "error_class": "server" if failed else None,
        "error_stage": "invoke" if failed else None,
    }


def _path_to(status: Status) -> list[Status]:
    return [] if status is Status.RUNNING else [status]


@pytest.mark.parametrize(("old", "new"), [pair for pair in itertools.product(Status, Status) if pair[0] != pair[1]])
def test_the_database_allows_exactly_the_declared_transitions(database: Database, old: Status, new: Status) -> None:
    with database.transaction() as connection:
        execution_id = insert_execution(connection)
        for step in _path_to(old):
            connection.execute(executions.update().values(**_fields(step)))
    change = executions.update().where(executions.c.id == execution_id).values(**_fields(new))
    if new in TRANSITIONS[old]:
        with database.transaction() as connection:
            connection.execute(change)
    else:
        with pytest.raises(DatabaseError, match="illegal transition"), database.transaction() as connection:
            connection.execute(change)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "succeeded"},  # final without an end
        {"status": "running", "finished_at": 2},
        {"status": "failed", "finished_at": 2},  # failed without an error
        {"status": "succeeded", "finished_at": 2, "error_class": "server", "error_stage": "invoke"},
        {"status": "asleep"},
    ],
)
def test_the_database_refuses_contradictions(database: Database, values: dict[str, Any]) -> None:
    with database.transaction() as connection:
        insert_execution(connection)
    with pytest.raises(DatabaseError), database.transaction() as connection:
        connection.execute(executions.update().values(**values))


def test_an_execution_begins_running(database: Database) -> None:
    with pytest.raises(DatabaseError, match="illegal transition"), database.transaction() as connection:
        insert_execution(connection, **_fields(Status.SUCCEEDED))


def test_one_live_execution_a_deduplication_key(database: Database) -> None:
    with database.transaction() as connection:
        first = insert_execution(connection, dedupe_key="commit-1")
    with pytest.raises(DatabaseError), database.transaction() as connection:
        insert_execution(connection, dedupe_key="commit-1")
    with database.transaction() as connection:
        connection.execute(executions.update().where(executions.c.id == first).values(**_fields(Status.FAILED)))
        insert_execution(connection, dedupe_key="commit-1")


def test_a_verdict_is_final(database: Database) -> None:
    row = {
        "workspace": "default",
        "application": "app",
        "task": "job",
        "trigger": "cron",
        "origin": "schedule",
        "occurrence": "1",
        "due_at": 1,
        "logical_at": 1,
        "actor": "system",
        "inputs": {},
        "claimed_at": 1,
    }
    with database.transaction() as connection:
        connection.execute(ticks.insert().values(id=new_id(), **row))
        connection.execute(ticks.update().values(verdict="skipped", reason="nothing to do", decided_at=2))
    with pytest.raises(DatabaseError, match="illegal transition"), database.transaction() as connection:
        connection.execute(ticks.update().values(verdict="missed"))
    with pytest.raises(DatabaseError), database.transaction() as connection:
        connection.execute(ticks.insert().values(id=new_id(), **row))


def test_audit_rows_are_never_changed(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            audit.insert().values(workspace="default", at=1, actor="kim", action="pause", object="task:a/b", details={})
        )
    for change in (audit.update().values(actor="nobody"), sa.delete(audit)):
        with pytest.raises(DatabaseError, match="append-only"), database.transaction() as connection:
            connection.execute(change)
