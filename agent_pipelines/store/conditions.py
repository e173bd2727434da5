"""Conditions of a query that its caller may leave out: a value of None asks for nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa


def equal(wanted: Mapping[sa.ColumnElement[Any], object]) -> Sequence[sa.ColumnElement[bool]]:
    """That columns have values."""
    return [column == value for column, value in wanted.items() if value is not None]


def within(column: sa.ColumnElement[Any], first: int | None, end: int | None) -> Sequence[sa.ColumnElement[bool]]:
    """That a number or an instant is at or after the first one and before the end."""
    return [*([] if first is None else [column >= first]), *([] if end is None else [column < end])]
