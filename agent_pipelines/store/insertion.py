"""Inserting rows: several at once, or one that may be there already."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

_AT_ONCE = 16  # rows of one statement


def insert_new(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> Any | None:
    """Insert a row unless a unique key of the table refuses it.

    Returns the first column of the primary key of the new row, None if it was refused.
    """
    return connection.execute(_new(table, tuple(row)), row).scalar()


def insert_all(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, which all have the same columns."""
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        values = {f"{column}_{number}": value for number, row in enumerate(some) for column, value in row.items()}
        connection.execute(_all(table, tuple(some[0]), len(some)), values)


# As text, because SQLAlchemy puts ON CONFLICT and several rows together anew at each use; both databases read these forms.


@cache
def _new(table: sa.Table, columns: tuple[str, ...]) -> sa.TextClause:
    values = ", ".join(f":{column}" for column in columns)
    first_key = next(iter(table.primary_key.columns)).name
    statement = sa.text(f'{_into(table, columns)} ({values}) ON CONFLICT DO NOTHING RETURNING "{first_key}"')
    return statement.bindparams(*(sa.bindparam(column, type_=table.c[column].type) for column in columns))


@cache
def _all(table: sa.Table, columns: tuple[str, ...], count: int) -> sa.TextClause:
    values = ", ".join(f"({', '.join(f':{column}_{number}' for column in columns)})" for number in range(count))
    typed = [sa.bindparam(f"{column}_{number}", type_=table.c[column].type) for column in columns for number in range(count)]
    return sa.text(f"{_into(table, columns)} {values}").bindparams(*typed)


def _into(table: sa.Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT INTO {table.name} ({names}) VALUES"
