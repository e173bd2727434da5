from agent_pipelines.context.state import TaskState
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.secrets import redactor
from agent_pipelines.store.database import Database

TASK = ("default", "app", "job")


def test_the_newest_value_of_each_key_is_read(database: Database, clock: ManualClock) -> None:
    state = TaskState(clock)
    with database.transaction() as connection:
        state.commit(connection, TASK, "e1", {"baseline": {"rows": 3}, "seen": [1]})
        state.commit(connection, TASK, "e2", {"baseline": None})
        state.commit(connection, ("default", "app", "other"), "e3", {"seen": "theirs"})
        assert state.read(connection, TASK) == {"baseline": None, "seen": [1]}
        assert state.read(connection, TASK, ["seen", "never"]) == {"seen": [1]}
        assert state.read(connection, ("other", "app", "job")) == {}
        assert [(old.execution_id, old.value) for old in state.history(connection, TASK, "baseline")] == [
            ("e2", None),
            ("e1", {"rows": 3}),
        ]


def test_an_execution_writes_once(database: Database, clock: ManualClock) -> None:
    state = TaskState(clock)
    with database.transaction() as connection:
        state.commit(connection, TASK, "e1", {"baseline": 1})
        state.commit(connection, TASK, "e2", {"baseline": 2})
        state.commit(connection, TASK, "e1", {"baseline": 3})
        assert state.read(connection, TASK) == {"baseline": 2}
        page = state.history(connection, TASK, "baseline", limit=1)
        assert [old.value for old in state.history(connection, TASK, "baseline", before=page[-1].seq)] == [1]


def test_values_hold_no_secret_and_no_unstorable_text(database: Database, clock: ManualClock) -> None:
    redactor.register("correct-horse-battery")
    with database.transaction() as connection:
        TaskState(clock).commit(connection, TASK, "e1", {"note": ["correct-horse-battery", "a\0b"]})
        assert TaskState(clock).read(connection, TASK) == {"note": ["[secret]", "a\ufffdb"]}
