"""Many rows in one statement: they travel as one JSON text, which both databases take apart themselves.

A parameter for each value of each row would cost our process more than all the rest of a row.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json

Rows = Sequence[Mapping[str, Any]]
"""Rows with the same columns each; their values are as JSON has them, and storable."""


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert rows."""
    if rows:
        connection.execute(_insert(table, tuple(rows[0]), connection.dialect.name), {"rows": _text(rows)})


def insert_rows_returning(connection: sa.Connection, table: sa.Table, rows: Rows, column: str) -> Sequence[Any]:
    """Insert rows but for those that a unique key refuses; returns a column of the ones that were inserted."""
    if not rows:
        return []
    statement = _insert(table, tuple(rows[0]), connection.dialect.name, f'ON CONFLICT DO NOTHING RETURNING "{column}"')
    return connection.execute(statement, {"rows": _text(rows)}).scalars().all()


def upsert_rows(connection: sa.Connection, table: sa.Table, rows: Rows, *, keys: Sequence[str]) -> None:
    """Insert rows; those whose keys are there already are replaced. No two rows may have the same keys."""
    if not rows:
        return
    columns = tuple(rows[0])
    names = ", ".join(f'"{key}"' for key in keys)
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in keys)
    tail = f"ON CONFLICT ({names}) DO UPDATE SET {changes}"
    connection.execute(_insert(table, columns, connection.dialect.name, tail), {"rows": _text(rows)})


def update_rows(
    connection: sa.Connection, table: sa.Table, rows: Rows, *, keys: Sequence[str], where: str = "", returning: str = ""
) -> Sequence[sa.Row[Any]]:
    """Change the rows that are found by their keys; returns columns of the changed ones, if `returning` names some.

    `where` is a further condition, in SQL, on columns of the table; it and `returning` are written by the caller, never taken
    from input.
    """
    if not rows:
        return []
    statement = _update(table, tuple(rows[0]), tuple(keys), where, returning, connection.dialect.name)
    done = connection.execute(statement, {"rows": _text(rows)})
    return done.all() if returning else []


def _text(rows: Rows) -> str:
    return to_json(rows).decode()


@cache
def _insert(table: sa.Table, columns: tuple[str, ...], dialect: str, tail: str = "") -> sa.TextClause:
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(f'r."{column}"' for column in columns)
    # SQLite takes ON CONFLICT behind a SELECT for part of a join, unless a WHERE stands between.
    return sa.text(
        f"INSERT INTO {table.name} ({names}) SELECT {values} FROM {_records(table, columns, dialect)} WHERE true {tail}"
    )


@cache
def _update(
    table: sa.Table, columns: tuple[str, ...], keys: tuple[str, ...], where: str, returning: str, dialect: str
) -> sa.TextClause:
    changed = [column for column in columns if column not in keys]
    changes = ", ".join(f'"{column}" = r."{column}"' for column in changed)
    same = " AND ".join(f'{table.name}."{key}" = r."{key}"' for key in keys)
    condition = f"{same} AND {where}" if where else same
    tail = f"RETURNING {returning}" if returning else ""
    return sa.text(f"UPDATE {table.name} SET {changes} FROM {_records(table, columns, dialect)} WHERE {condition} {tail}")


def _records(table: sa.Table, columns: tuple[str, ...], dialect: str) -> str:
    if dialect == "sqlite":
        values = ", ".join(f'{_of_sqlite(table.c[column])} AS "{column}"' for column in columns)
        return f"(SELECT {values} FROM json_each(:rows)) AS r"
    compiler = sa.dialects.postgresql.dialect()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    types = ", ".join(f'"{column}" {table.c[column].type.compile(compiler)}' for column in columns)  # pyright: ignore[reportUnknownArgumentType]
    return f"json_to_recordset(CAST(:rows AS json)) AS r({types})"


def _of_sqlite(column: sa.Column[Any]) -> str:
    path = f"'$.{column.name}'"
    if isinstance(column.type, sa.JSON):
        return f"nullif(json_each.value -> {path}, 'null')"
    return f"json_extract(json_each.value, {path})"
