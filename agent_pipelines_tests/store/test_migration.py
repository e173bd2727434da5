import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from agent_pipelines.core.batch import BATCH_TRANSITIONS, SHARD_TRANSITIONS
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.execution import TRANSITIONS
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import VERSION_TABLE, is_current, migrate
from agent_pipelines.store.migrations.versions import __name__ as versions
from agent_pipelines.store.tables import metadata
from agent_pipelines_tests.store.rows import insert_execution


def test_migrated_tables_are_those_that_the_code_declares(database: Database) -> None:
    def ours(item: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        return not (name or "").startswith(("execution_search", "words", "ix_execution_texts_words", VERSION_TABLE))

    with database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "include_object": ours, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_changes_nothing(empty_database: Database) -> None:
    assert not is_current(empty_database)
    migrate(empty_database)
    assert is_current(empty_database)
    migrate(empty_database)
    assert is_current(empty_database)


def test_records_of_an_older_state_survive_and_become_searchable(empty_database: Database) -> None:
    migrate(empty_database, "0001_record")
    with empty_database.transaction() as connection:
        insert_execution(connection, text="the quarterly walrus report")
    migrate(empty_database)
    with empty_database.reading() as connection:
        assert connection.execute(sa.text("SELECT body FROM execution_texts")).scalar_one().endswith("walrus report ")


def test_two_processes_may_migrate_at_once(empty_database: Database) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        other = Database(empty_database.url.render_as_string(hide_password=False))
        try:
            migrate(other)
        except BaseException as error:
            errors.append(error)
        finally:
            other.close()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_current(empty_database)


def test_a_newer_database_is_refused_and_left_alone(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999_future'")
    with pytest.raises(StorageError, match="9999_future, which this version of agent-pipelines does not know"):
        migrate(database)
    with database.reading() as connection:
        assert connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one() == "9999_future"


def test_the_transitions_of_the_database_are_those_of_the_code() -> None:
    migration = __import__(f"{versions}.0002_state_machine_and_search", fromlist=["LEGAL"])
    assert {str(old): {str(status) for status in new} for old, new in TRANSITIONS.items() if new} == {
        old: set(new) for old, new in migration.LEGAL.items()
    }


def test_the_transitions_of_batches_are_those_of_the_code() -> None:
    migration = __import__(f"{versions}.0011_batches", fromlist=["LEGAL"])
    for table, transitions in (("batches", BATCH_TRANSITIONS), ("batch_shards", SHARD_TRANSITIONS)):
        assert {str(old): {str(status) for status in new} for old, new in transitions.items() if new} == {
            old: set(new) for old, new in migration.LEGAL[table].items()
        }
