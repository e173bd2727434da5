"""A thousand nodes: what runs where is found by keys, whatever else the record holds."""

import pytest
from sqlalchemy import event

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.execution.fleet_standing import agent_standings
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection, Database

RUNNING = "SELECT 1 FROM attempts WHERE agent = 'agent-7' AND node = 'n' AND status = 'running'"
LATEST = "SELECT 1 FROM attempts WHERE agent = 'agent-7' AND node = 'n' ORDER BY started_at DESC LIMIT 50"
QUEUED = "SELECT 1 FROM work_orders WHERE agent = 'agent-7' AND node = 'n' AND state = 'queued' ORDER BY created_at LIMIT 5"


@pytest.mark.parametrize(
    ("query", "index"),
    [(RUNNING, "ix_attempts_running"), (LATEST, "ix_attempts_node"), (QUEUED, "ix_work_orders_queued")],
)
def test_what_a_node_has_is_found_by_an_index(database: Database, query: str, index: str) -> None:
    with database.transaction() as connection:
        assert index in _plan(connection, query, is_sqlite=database.is_sqlite)


def test_a_thousand_nodes_are_told_in_a_few_queries(database: Database, clock: ManualClock) -> None:
    hub = Hub(database, clock)
    with database.transaction() as connection:
        for number in range(1_000):
            hub.fleet.nodes.register(connection, f"agent-{number % 500}", f"n{number}", actor="test", worker=f"w{number}")
    with database.reading() as connection:
        count = _counting(connection)
        found = agent_standings(connection, hub.fleet, clock.now())
        assert len(found) == 500
        assert all(each.live == 2 for each in found)
        assert hub.executions.attempts.on(connection, "agent-7", is_running=True) == []
        assert len([each for each in count if each != "BEGIN"]) <= 5


def _plan(connection: Connection, query: str, *, is_sqlite: bool) -> str:
    if is_sqlite:
        return "\n".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}"))
    # Tables without rows are read as a whole, whatever index there is.
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    return "\n".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN {query}"))


def _counting(connection: Connection) -> list[str]:
    statements: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
    return statements
