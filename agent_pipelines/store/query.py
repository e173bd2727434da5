"""Rows of somebody else's database, streamed."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.secrets import redactor

_AT_ONCE = 1_000  # rows that are fetched at a time


def rows_of(url: str, query: str) -> Iterator[dict[str, Any]]:
    """The rows of a query as mappings; the server is asked for some at a time.

    Raises StorageError, without secrets, if the database cannot be reached or refuses the query.
    """
    parsed = sa.make_url(url)
    redactor.register(parsed.password)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg2")
    try:
        engine = sa.create_engine(parsed)
        try:
            with engine.connect() as connection:
                # As it is written: neither a colon nor a percent sign in somebody's SQL is a parameter of ours.
                streamed = connection.execution_options(stream_results=True, yield_per=_AT_ONCE, no_parameters=True)
                for row in streamed.exec_driver_sql(query).mappings():
                    yield dict(row)
        finally:
            engine.dispose()
    except (exc.DBAPIError, exc.NoSuchModuleError) as error:
        raise StorageError(redactor.text(f"the query failed: {getattr(error, 'orig', None) or error}").strip()) from None
