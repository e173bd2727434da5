"""Bringing the tables to the state that this version needs."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from agent_pipelines.core.errors import StorageError
from agent_pipelines.store.database import SCHEMA, Database

VERSION_TABLE = "agent_pipelines_version"

_ADVISORY_LOCK = 0x61_70_6D_69_67  # any number that nobody else uses


def migrate(database: Database, revision: str = "head") -> None:
    """Create or upgrade the tables; a second process waits for the first.

    Raises StorageError if the database was made by a newer version of the product.
    """
    with database.transaction() as connection:
        if not database.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        _refuse_newer(connection, database)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def is_current(database: Database) -> bool:
    """Whether the tables are in the state that this version needs.

    Raises StorageError if the database was made by a newer version of the product.
    """
    with database.reading() as connection:
        return _refuse_newer(connection, database) == ScriptDirectory.from_config(_config()).get_current_head()


def _refuse_newer(connection: sa.Connection, database: Database) -> str | None:
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current is not None and current not in known:
        raise StorageError(
            f"{database!r} is at revision {current}, which this version of agent-pipelines does not know; "
            "install the version that wrote it, or a newer one. Nothing was changed"
        )
    return current


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
