"""Column kinds that all tables share."""

from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Instant = sa.BigInteger
Number: sa.types.TypeEngine[float] = sa.Double()
Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows only in an INTEGER primary key
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def one_of(column: str, values: type[StrEnum] | Iterable[str]) -> str:
    """SQL that is true if the column holds one of the words."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def task_columns() -> list[sa.Column[str]]:
    """The three columns that identify a task, in the order of every key."""
    return [sa.Column(name, sa.Text, nullable=False) for name in ("workspace", "application", "task")]
