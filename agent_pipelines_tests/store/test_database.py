import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent_pipelines.core.errors import StorageError
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines.store.tables import outbox
from agent_pipelines_tests.conftest import create_postgres_database


def _insert(connection: sa.Connection, kind: str) -> None:
    connection.execute(outbox.insert().values(workspace="w", application="a", task="t", kind=kind, body={}, created_at=1))


def _count(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one()


def test_writes_of_one_group_are_all_durable_and_one_failure_harms_no_other(database: Database) -> None:
    async def run() -> list[BaseException | None]:
        def fail(connection: sa.Connection) -> None:
            _insert(connection, "lost")
            raise KeyError("this one only")

        operations = [database.write(fail if number % 10 == 3 else lambda c: _insert(c, "kept")) for number in range(100)]
        return await asyncio.gather(*operations, return_exceptions=True)

    results = asyncio.run(run())
    assert sum(isinstance(result, KeyError) for result in results) == 10
    with database.reading() as connection:
        assert _count(connection) == 90
        assert connection.execute(sa.select(outbox.c.kind).distinct()).scalars().all() == ["kept"]


def test_a_full_disk_is_told_and_leaves_nothing_half_written(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    migrate(database)

    def fill(connection: sa.Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        for _ in range(2_000):
            _insert(connection, "many")

    with pytest.raises(StorageError, match="database or disk is full"), database.transaction() as connection:
        fill(connection, connection.exec_driver_sql("PRAGMA page_count").scalar_one() + 10)
    with database.reading() as connection:
        assert _count(connection) == 0
    with database.transaction() as connection:
        fill(connection, 1_000_000)
    with database.reading() as connection:
        assert _count(connection) == 2_000
    database.close()


def test_an_operation_that_the_database_refuses_harms_no_other_of_its_group(database: Database) -> None:
    holding, tries = threading.Event(), list[str]()

    def add(kind: str, *, at: int | None = 1) -> Callable[[sa.Connection], str]:
        def operation(connection: sa.Connection) -> str:
            tries.append(kind)
            _insert(connection, f"{kind}, first row")
            row = {"workspace": "w", "application": "a", "task": "t", "kind": kind, "body": {}, "created_at": at}
            connection.execute(outbox.insert(), row)  # on PostgreSQL its refusal ends the whole transaction
            return kind

        return operation

    # The first operation keeps the writer busy until all others wait, so that these share a group.
    database.submit(lambda _: holding.wait(10))
    futures = [database.submit(add("a")), database.submit(add("refused", at=None)), database.submit(add("b"))]
    holding.set()
    assert (futures[0].result(30), futures[2].result(30)) == ("a", "b")
    assert isinstance(futures[1].exception(30), sa.exc.IntegrityError)
    assert tries == ["a", "refused", "a", "refused", "b"]
    with database.reading() as connection:
        kinds = connection.execute(sa.select(outbox.c.kind).order_by(outbox.c.seq)).scalars().all()
    assert kinds == ["a, first row", "a", "b, first row", "b"]


def test_who_reads_sees_one_state_whatever_is_written_meanwhile(database: Database) -> None:
    with database.reading() as connection:
        before = _count(connection)
        with database.transaction() as other:
            _insert(other, "late")
        assert _count(connection) == before
    with database.reading() as connection:
        assert _count(connection) == before + 1


def test_a_forked_child_writes_with_connections_of_its_own(database: Database) -> None:
    database.submit(lambda c: _insert(c, "parent")).result()
    pid = os.fork()
    if pid == 0:
        try:
            database.submit(lambda c: _insert(c, "child")).result(timeout=30)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    database.submit(lambda c: _insert(c, "parent again")).result()
    with database.reading() as connection:
        assert _count(connection) == 3


def test_a_locked_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    database = Database(f"sqlite:///{path}", busy_timeout=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"locked\.db.*database is locked"), database.transaction():
        pass
    other.close()
    with database.transaction():
        pass
    database.close()


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but a longer text that is certainly no SQLite header at all " * 20)
    with pytest.raises(StorageError, match=r"notes\.db.*not a database"), Database(f"sqlite:///{path}").reading() as connection:
        _count(connection)


def test_missing_tables_name_the_command(empty_database: Database) -> None:
    with pytest.raises(StorageError, match="agent-pipelines migrate"), empty_database.reading() as connection:
        _count(connection)


def test_an_unreachable_server_hides_the_password() -> None:
    database = Database("postgresql://kim:hunter2secret@127.0.0.1:9/none")
    with pytest.raises(StorageError) as caught, database.transaction():
        pass
    assert "hunter2secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_bare_postgresql_url_gets_the_driver_that_is_installed() -> None:
    assert Database("postgresql://kim@127.0.0.1/x").url.drivername == "postgresql+psycopg2"


def test_other_databases_are_refused() -> None:
    with pytest.raises(StorageError, match="'mysql' is not supported; use sqlite or postgresql"):
        Database("mysql://kim@127.0.0.1/x")


def test_groups_that_deadlock_are_both_written(postgres_template: str) -> None:
    url = create_postgres_database(postgres_template)
    first, second = Database(url), Database(url)
    with first.transaction() as connection:
        for number in (1, 2):
            connection.execute(
                outbox.insert().values(workspace="w", application="a", task="t", kind=f"{number}", body={}, created_at=0)
            )
    crossing = threading.Barrier(2)
    holding = threading.Event()

    def add(kind: str, *, meet: bool = False, hold: bool = False) -> Callable[[sa.Connection], None]:
        met: list[bool] = []

        def operation(connection: sa.Connection) -> None:
            if hold:
                holding.wait(10)
                return
            connection.execute(outbox.update().where(outbox.c.kind == kind).values(created_at=outbox.c.created_at + 1))
            if meet and not met:
                met.append(True)
                crossing.wait(10)

        return operation

    # The first operation keeps the writer busy until both crossing ones wait, so that these share a group.
    futures = []
    for database, order in ((first, ("1", "2")), (second, ("2", "1"))):
        futures.append(database.submit(add("", hold=True)))
        futures.append(database.submit(add(order[0], meet=True)))
        futures.append(database.submit(add(order[1])))
    holding.set()
    for future in futures:
        future.result(timeout=30)
    with first.reading() as connection:
        assert connection.execute(sa.select(outbox.c.created_at)).scalars().all() == [2, 2]
    first.close()
    second.close()


def test_what_is_written_while_the_database_is_closed_ends_with_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: sa.Connection) -> int:
        begun.set()
        go_on.wait()
        return 1

    first = database.submit(slow)
    begun.wait()
    closing = threading.Thread(target=database.close, daemon=True)
    closing.start()
    while database._writer is not None:  # pyright: ignore[reportPrivateUsage]
        pass
    second = database.submit(lambda _: 2)
    go_on.set()
    assert (first.result(30), second.result(30)) == (1, 2)
    closing.join(30)
    assert not closing.is_alive()
    database.close()


def test_a_connection_that_the_server_has_just_closed_is_replaced(postgres_template: str) -> None:
    url = create_postgres_database(postgres_template)
    database, other = Database(url), Database(url)
    with database.reading() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with other.transaction() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != pid
    database.close()
    other.close()
