"""Inserting rows that may be there already."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa


def insert_new(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> Any | None:
    """Insert a row unless a unique key of the table refuses it.

    Returns the first column of the primary key of the new row, None if it was refused.
    """
    return connection.execute(_statement(table, tuple(row)), row).scalar()


@cache
def _statement(table: sa.Table, columns: tuple[str, ...]) -> sa.TextClause:
    # As text, because SQLAlchemy compiles its ON CONFLICT constructs anew at each use; both databases read this form.
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(f":{column}" for column in columns)
    first_key = next(iter(table.primary_key.columns)).name
    statement = sa.text(f'INSERT INTO {table.name} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING RETURNING "{first_key}"')
    return statement.bindparams(*(sa.bindparam(column, type_=table.c[column].type) for column in columns))
