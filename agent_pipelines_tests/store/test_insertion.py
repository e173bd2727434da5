import pytest
import sqlalchemy as sa

from agent_pipelines.store.database import Database
from agent_pipelines.store.insertion import insert_all, insert_new
from agent_pipelines.store.tables import outbox, prompt_versions


@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
def test_all_rows_are_inserted_in_their_order(database: Database, count: int) -> None:
    rows = [
        {
            "workspace": "w",
            "application": "a",
            "task": "t",
            "kind": f"kind {number}",
            "execution_id": None if number % 2 else f"{number}",
            "body": {"number": number, "text": "100 % :of_it"},
            "created_at": number,
        }
        for number in range(count)
    ]
    with database.transaction() as connection:
        insert_all(connection, outbox, rows)
        stored = connection.execute(sa.select(outbox).order_by(outbox.c.seq)).mappings().all()
    assert [{name: row[name] for name in row if name != "seq"} for row in stored] == rows


def test_a_row_that_is_there_stays_as_it_is(database: Database) -> None:
    row = {
        "workspace": "w",
        "application": "a",
        "task": "t",
        "version": "v",
        "prompt": "first",
        "parameters": {},
        "actor": "kim",
        "created_at": 1,
    }
    with database.transaction() as connection:
        assert insert_new(connection, prompt_versions, row) == "w"
        assert insert_new(connection, prompt_versions, {**row, "prompt": "second"}) is None
        assert connection.execute(sa.select(prompt_versions.c.prompt)).scalars().all() == ["first"]
