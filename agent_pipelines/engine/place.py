"""Where our tables are: told by the Dagster instance, never by the environment."""

from pathlib import Path

import sqlalchemy as sa
from dagster import DagsterInstance

from agent_pipelines.core.errors import StorageError

FILE_NAME = "agent_pipelines.db"


def database_url(instance: DagsterInstance) -> str:
    """The database that belongs to a Dagster instance, with the password if it has one.

    The instance's own PostgreSQL database if its runs are stored in one (our tables have a schema of their own there),
    otherwise a SQLite file in the instance's root directory; an ephemeral instance has such a directory too.
    Raises StorageError for a storage that we cannot share.
    """
    storage = instance.run_storage
    postgres_url: str | None = getattr(storage, "postgres_url", None)
    if postgres_url is not None:
        if getattr(storage, "_token_provider", None) is not None:
            raise StorageError("dagster.yaml: storage.postgres.auth_provider is not supported; give a user and a password")
        return postgres_url
    if hasattr(storage, "mysql_url"):
        raise StorageError("dagster.yaml: storage.mysql is not supported; use storage.postgres, or SQLite on a single machine")
    path = Path(instance.root_directory).absolute() / FILE_NAME
    return sa.URL.create("sqlite", database=str(path)).render_as_string()
