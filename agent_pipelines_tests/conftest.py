"""Fixtures that every test tree uses: a fresh, migrated database of both kinds, and a clock that stands still."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.postgres import PostgresServer

DSN_VARIABLE = "AGENT_PIPELINES_TEST_DSN"
_server: PostgresServer | None = None


def pytest_configure(config: pytest.Config) -> None:
    # One server for all workers: the controller starts it, they find it in the environment.
    global _server
    if not hasattr(config, "workerinput") and DSN_VARIABLE not in os.environ and not config.option.collectonly:
        _server = PostgresServer()
        os.environ[DSN_VARIABLE] = _server.dsn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that wait for real processes first: the others fill the time of the other workers.
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _server is not None:
        _server.stop()


def create_postgres_database(template: str | None = None) -> str:
    """Create an empty database, or a copy of a template, and return its URL."""
    name = f"t_{uuid.uuid4().hex}"
    server = sa.create_engine(os.environ[DSN_VARIABLE], isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    server.dispose()
    return sa.make_url(os.environ[DSN_VARIABLE]).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_template() -> str:
    """Name of a migrated PostgreSQL database that tests copy."""
    url = create_postgres_database()
    database = Database(url)
    migrate(database)
    database.close()
    name = sa.make_url(url).database
    assert name is not None
    return name


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'agent_pipelines.db'}"


@pytest.fixture
def postgres_url() -> str:
    """URL of an empty PostgreSQL database."""
    return create_postgres_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, once of each kind."""
    url = f"sqlite:///{tmp_path / 'agent_pipelines.db'}" if request.param == "sqlite" else create_postgres_database()
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated database, once of each kind."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'agent_pipelines.db'}")
        migrate(database)
    else:
        database = Database(create_postgres_database(request.getfixturevalue("postgres_template")))
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
