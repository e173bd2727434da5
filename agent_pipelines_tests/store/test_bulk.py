from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from agent_pipelines.store.bulk import bundled, insert_missing, insert_rows, update_rows, upsert_rows, upsert_rows_of
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables.base import Json, Number

other = sa.MetaData()
things = sa.Table(
    "things",
    other,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, unique=True),
    sa.Column("share", Number),
    sa.Column("body", Json),
)
notes = sa.Table("notes", other, sa.Column("number", sa.BigInteger, primary_key=True), sa.Column("text", sa.Text))


@pytest.fixture
def connection(database: Database) -> Iterator[sa.Connection]:
    with database.transaction() as connection:
        other.create_all(connection)
        yield connection


def _all(connection: sa.Connection, table: sa.Table = things) -> list[Any]:
    return [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))]


VALUES = [
    ("a", 2**62, 0.1, {"deep": [1, {"x": None}], "text": 'quotes " and \\ and %s and :rows and @rows@'}),
    ("b", -1, None, ["grüße", "世界", "line\u2028separator", "\u00e9"]),
    ("c", 0, 1e300, "text"),
    ("d", 1, 2.5, None),
    ("e", 2, 0.0, True),
    ("it's; DROP TABLE things", 3, 0.0, 17),
]


def _rows(values: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(("id", "number", "share", "body"), each, strict=True)) for each in values]


def test_rows_come_back_as_they_went_in(connection: sa.Connection) -> None:
    insert_rows(connection, things, _rows(VALUES))
    insert_rows(connection, things, [])
    assert _all(connection) == VALUES
    empty = connection.execute(sa.select(things.c.id).where(things.c.body.is_(None))).scalars().all()
    assert empty == ["d"]


def test_rows_are_changed_by_their_keys_and_told(connection: sa.Connection) -> None:
    insert_rows(connection, things, _rows(VALUES))
    changes = [{"id": "a", "share": 9.0}, {"id": "b", "share": 8.0}, {"id": "none", "share": 7.0}]
    changed = update_rows(connection, things, changes, keys=("id",), where="things.number > 0", returning="things.id")
    assert [row[0] for row in changed] == ["a"]
    assert [row[2] for row in _all(connection)][:2] == [9.0, None]


def test_rows_that_are_there_are_replaced(connection: sa.Connection) -> None:
    insert_rows(connection, things, _rows(VALUES[:1]))
    upsert_rows(connection, things, _rows([("a", 5, 1.0, None), ("z", 6, 2.0, None)]), keys=("id",))
    assert _all(connection) == [("a", 5, 1.0, None), ("z", 6, 2.0, None)]


def test_rows_take_their_key_from_another_table(connection: sa.Connection) -> None:
    insert_rows(connection, things, _rows(VALUES))
    for text in ("first", "second"):
        rows = [{"id": "c", "text": text}, {"id": "none", "text": text}]
        upsert_rows_of(connection, notes, rows, key="number", of=things, by="id")
    assert _all(connection, notes) == [(0, "second")]


def test_statements_of_a_bundle_travel_in_order(connection: sa.Connection) -> None:
    with bundled(connection):
        insert_rows(connection, things, _rows(VALUES[:2]))
        update_rows(connection, things, [{"id": "a", "share": 4.0}], keys=("id",))
        found = update_rows(connection, things, [{"id": "b", "share": 5.0}], keys=("id",), returning="things.id, things.share")
        assert [tuple(row) for row in found] == [("b", 5.0)]
        insert_rows(connection, things, _rows(VALUES[2:3]))
    assert [row[2] for row in _all(connection)] == [4.0, 5.0, 1e300]


def test_a_bundle_that_breaks_leaves_nothing_behind(database: Database) -> None:
    with database.transaction() as connection:
        other.create_all(connection)

    def twice() -> None:
        with database.transaction() as connection, bundled(connection):
            insert_rows(connection, things, _rows(VALUES[:2]))
            insert_rows(connection, things, _rows(VALUES[:1]))

    with pytest.raises(sa.exc.IntegrityError):
        twice()
    with database.transaction() as connection:
        assert _all(connection) == []
        insert_rows(connection, things, _rows(VALUES[:1]))
        assert len(_all(connection)) == 1


def test_rows_that_are_there_already_are_left_alone(connection: sa.Connection) -> None:
    insert_rows(connection, things, _rows(VALUES[:1]))
    insert_missing(connection, things, _rows([("a", 9, None, None), ("n", 8, None, None)]))
    assert _all(connection) == [VALUES[0], ("n", 8, None, None)]
