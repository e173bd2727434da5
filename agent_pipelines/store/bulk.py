"""Many rows in one statement, and several such statements in one message to the server.

Rows travel as one JSON text, which both databases take apart themselves: a parameter for each value of each row would cost our
process more than all the rest of a row. And a thread that waits for the server has to get the interpreter back after each
answer, for milliseconds if an event loop is busy, so that fewer answers make a group of rows durable sooner.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.dialects import postgresql

Rows = Sequence[Mapping[str, Any]]
"""Rows with the same columns each; their values are as JSON has them, and storable."""

_BUNDLE = "agent_pipelines_bundle"
_ROWS = "@rows@"  # where the text stands in a statement
_POSTGRESQL = postgresql.dialect()


@contextmanager
def bundled(connection: sa.Connection) -> Generator[None]:
    """Have the statements of this module that are made in the block travel together, in order.

    They are sent at its end, or with one of them that returns something. Other statements do not see them before.
    """
    connection.info[_BUNDLE] = list[tuple[str, str]]()
    try:
        yield
        _send(connection, connection.info[_BUNDLE])
    finally:
        connection.info.pop(_BUNDLE, None)


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert rows."""
    if rows:
        _run(connection, _insert(table, tuple(rows[0]), connection.dialect.name), rows)


def insert_missing(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert rows but for those that a unique key refuses, as when a commit was done though its answer was lost."""
    if rows:
        _run(connection, _insert(table, tuple(rows[0]), connection.dialect.name, "ON CONFLICT DO NOTHING"), rows)


def upsert_rows(connection: sa.Connection, table: sa.Table, rows: Rows, *, keys: Sequence[str]) -> None:
    """Insert rows; those whose keys are there already are replaced. No two rows may have the same keys."""
    if rows:
        tail = _replacing(tuple(rows[0]), tuple(keys))
        _run(connection, _insert(table, tuple(rows[0]), connection.dialect.name, tail), rows)


def upsert_rows_of(
    connection: sa.Connection, table: sa.Table, rows: Rows, *, key: str, of: sa.Table, by: str, where: str = "true"
) -> None:
    """As `upsert_rows`, for rows that name a row of another table `of` in its column `by`, and take their `key` from it.

    Those that meet no row there for which `where` holds are left out.
    """
    if rows:
        statement = _insert_of(table, tuple(rows[0]), key, of, by, where, connection.dialect.name)
        _run(connection, statement, rows)


def update_rows(
    connection: sa.Connection, table: sa.Table, rows: Rows, *, keys: Sequence[str], where: str = "true", returning: str = ""
) -> Sequence[sa.Row[Any]]:
    """Change the rows that are found by their keys; returns columns of the changed ones, if `returning` names some.

    `where` is a further condition, in SQL, on columns of the table. It and `returning` are written by the caller, never taken
    from input.
    """
    if not rows:
        return []
    statement = _update(table, tuple(rows[0]), tuple(keys), where, returning, connection.dialect.name)
    return _run(connection, statement, rows, returns=bool(returning))


def _run(connection: sa.Connection, statement: str, rows: Rows, *, returns: bool = False) -> Sequence[sa.Row[Any]]:
    waiting: list[tuple[str, str]] | None = connection.info.get(_BUNDLE)
    one = (statement, to_json(rows).decode())
    if waiting is None:
        return _send(connection, [one], returns=returns)
    waiting.append(one)
    return _send(connection, waiting, returns=True) if returns else []


def _send(connection: sa.Connection, waiting: list[tuple[str, str]], *, returns: bool = False) -> Sequence[sa.Row[Any]]:
    sent, waiting[:] = tuple(waiting), []
    if not sent:
        return []
    if connection.dialect.name == "sqlite":
        results = [connection.exec_driver_sql(statement.replace(_ROWS, "?"), (text,)) for statement, text in sent]
        return results[-1].all() if returns else []
    numbered = [statement.replace(_ROWS, f"%(r{number})s") for number, (statement, _) in enumerate(sent)]
    result = connection.exec_driver_sql("; ".join(numbered), {f"r{number}": text for number, (_, text) in enumerate(sent)})
    return result.all() if returns else []


@cache
def _insert(table: sa.Table, columns: tuple[str, ...], dialect: str, tail: str = "") -> str:
    values = ", ".join(f'r."{column}"' for column in columns)
    # SQLite takes ON CONFLICT behind a SELECT for part of a join, unless a WHERE stands between.
    return f"{_into(table, columns)} SELECT {values} FROM {_records(table, columns, dialect)} WHERE true {tail}"


@cache
def _insert_of(table: sa.Table, columns: tuple[str, ...], key: str, of: sa.Table, by: str, where: str, dialect: str) -> str:
    own = tuple(column for column in columns if column != by)
    values = ", ".join(f'r."{column}"' for column in own)
    records = _records(table, own, dialect, {by: of.c[by]})
    joined = f'{records} JOIN {of.name} ON {of.name}."{by}" = r."{by}"'
    tail = _replacing((key, *own), (key,))
    return f'{_into(table, (key, *own))} SELECT {of.name}."{key}", {values} FROM {joined} WHERE {where} {tail}'


@cache
def _update(table: sa.Table, columns: tuple[str, ...], keys: tuple[str, ...], where: str, returning: str, dialect: str) -> str:
    changes = ", ".join(f'"{column}" = r."{column}"' for column in columns if column not in keys)
    same = " AND ".join(f'{table.name}."{key}" = r."{key}"' for key in keys)
    tail = f"RETURNING {returning}" if returning else ""
    return f"UPDATE {table.name} SET {changes} FROM {_records(table, columns, dialect)} WHERE {same} AND {where} {tail}"


def _into(table: sa.Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT INTO {table.name} ({names})"


def _replacing(columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
    names = ", ".join(f'"{key}"' for key in keys)
    changes = ", ".join(f'"{column}" = excluded."{column}"' for column in columns if column not in keys)
    return f"ON CONFLICT ({names}) DO UPDATE SET {changes}"


def _records(table: sa.Table, columns: tuple[str, ...], dialect: str, besides: Mapping[str, sa.Column[Any]] | None = None) -> str:
    found = {column: table.c[column] for column in columns} | dict(besides or {})
    if dialect == "sqlite":
        values = ", ".join(f'{_of_sqlite(column)} AS "{name}"' for name, column in found.items())
        return f"(SELECT {values} FROM json_each({_ROWS})) AS r"
    types = ", ".join(f'"{name}" {column.type.compile(_POSTGRESQL)}' for name, column in found.items())
    return f"json_to_recordset(CAST({_ROWS} AS json)) AS r({types})"


def _of_sqlite(column: sa.Column[Any]) -> str:
    path = f"'$.{column.name}'"
    if isinstance(column.type, sa.JSON):
        return f"nullif(json_each.value -> {path}, 'null')"
    return f"json_extract(json_each.value, {path})"
