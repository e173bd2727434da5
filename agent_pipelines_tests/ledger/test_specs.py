import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.store.database import Connection, Database
from agent_pipelines.store.migration import migrate

SPEC = TaskSpec(name="review", application="code", intent="Review a commit", agent="reviewer")


@pytest.fixture
def specs(clock: ManualClock) -> TaskSpecs:
    return TaskSpecs(clock)


def test_a_specification_is_kept_once(database: Database, clock: ManualClock, specs: TaskSpecs) -> None:
    for _ in range(4):
        with database.transaction() as connection:
            assert specs.put(connection, SPEC) == SPEC.spec_hash
            assert specs.put(connection, SPEC) == SPEC.spec_hash
        clock.time += 1
    with database.reading() as connection:
        assert specs.get(connection, SPEC.spec_hash) == SPEC
        assert specs.history(connection, SPEC.key) == [(SPEC.spec_hash, clock.time - 4)]


def test_a_specification_of_a_transaction_that_was_undone_is_kept_by_the_next(database: Database, specs: TaskSpecs) -> None:
    def undone(connection: Connection) -> None:
        specs.put(connection, SPEC)
        specs.put(connection, SPEC)
        raise KeyError("undone")

    with pytest.raises(KeyError), database.transaction() as connection:
        undone(connection)
    with database.transaction() as connection:
        with pytest.raises(KeyError), connection.begin_nested():
            undone(connection)
        specs.put(connection, SPEC)
    with database.reading() as connection:
        assert specs.get(connection, SPEC.spec_hash) == SPEC


def test_each_database_keeps_its_own(database: Database, empty_database: Database, specs: TaskSpecs) -> None:
    for _ in range(3):
        with database.transaction() as connection:
            specs.put(connection, SPEC)
    migrate(empty_database)
    with empty_database.transaction() as connection:
        specs.put(connection, SPEC)
    with empty_database.reading() as connection:
        assert specs.get(connection, SPEC.spec_hash) == SPEC
