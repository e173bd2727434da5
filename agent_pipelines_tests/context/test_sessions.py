import threading

from agent_pipelines.context.sessions import Sessions
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import SessionSpec
from agent_pipelines.store.database import Database

FRESH, TASK, DESK = SessionSpec(), SessionSpec(mode="task"), SessionSpec(mode="named", name="desk")
A, B = ("default", "app", "a"), ("default", "app", "b")


def test_modes_share_what_they_say(database: Database, clock: ManualClock) -> None:
    sessions = Sessions(clock)
    with database.transaction() as connection:

        def opened(spec: SessionSpec, task: tuple[str, str, str], execution: str, agent: str = "writer") -> str:
            return sessions.open(connection, spec, task, agent, execution).id

        assert opened(FRESH, A, "1") != opened(FRESH, A, "2")
        assert opened(FRESH, A, "1") == opened(FRESH, A, "1")
        assert opened(TASK, A, "1") == opened(TASK, A, "2")
        assert opened(TASK, A, "1") != opened(TASK, B, "2")
        assert opened(DESK, A, "1") == opened(DESK, B, "2")
        assert opened(DESK, A, "1") != opened(DESK, A, "1", agent="coder")
        assert opened(DESK, A, "1") != opened(DESK, ("other", "app", "a"), "1")
        task_session = sessions.get(connection, opened(TASK, A, "1"))
        assert task_session is not None
        assert (task_session.mode, task_session.name, task_session.remote_id) == ("task", "app/a", None)


def test_processes_that_begin_a_session_at_once_begin_one(database: Database, clock: ManualClock) -> None:
    barrier, ids = threading.Barrier(8), set[str]()

    def begin(number: int) -> None:
        barrier.wait()
        with database.transaction() as connection:
            ids.add(Sessions(clock).open(connection, TASK, A, "writer", str(number)).id)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1


def test_a_turn_is_added_once_and_keeps_the_remote_session(database: Database, clock: ManualClock) -> None:
    sessions = Sessions(clock)
    with database.transaction() as connection:
        session = sessions.open(connection, TASK, A, "writer", "1")
        assert sessions.append(connection, session.id, "1", user="q1", assistant="a1", remote_id="r1")
        clock.time += 5
        assert sessions.append(connection, session.id, "2", user="q2", assistant="a2", remote_id="r2")
        assert not sessions.append(connection, session.id, "1", user="again", assistant="again", remote_id="r1")
        assert sessions.append(connection, session.id, "3", user="q3", assistant="a3")
        assert [message.content for message in sessions.history(connection, session.id, limit=9)] == [
            *("q1", "a1", "q2", "a2", "q3", "a3"),
        ]
        found = sessions.get(connection, session.id)
        assert found is not None
        assert (found.remote_id, found.updated_at) == ("r2", clock.now())
        sessions.forget_remote(connection, session.id)
        forgotten = sessions.get(connection, session.id)
        assert forgotten is not None
        assert forgotten.remote_id is None


def test_history_is_the_newest_turns_in_order(database: Database, clock: ManualClock) -> None:
    sessions = Sessions(clock)
    with database.transaction() as connection:
        session = sessions.open(connection, TASK, A, "writer", "1")
        for number in range(100):
            sessions.append(connection, session.id, str(number), user=f"q{number:03}", assistant=f"a{number:03}")
        assert sessions.count(connection, session.id) == 100

        def numbers(limit: int, characters: int | None = None) -> list[int]:
            messages = sessions.history(connection, session.id, limit=limit, characters=characters)
            assert [message.role for message in messages] == ["user", "assistant"] * (len(messages) // 2)
            assert [message.content[1:] for message in messages[::2]] == [message.content[1:] for message in messages[1::2]]
            return [int(message.content[1:]) for message in messages[::2]]

        assert numbers(3) == [97, 98, 99]
        assert numbers(70) == list(range(30, 100))
        assert numbers(1_000) == list(range(100))
        assert numbers(1_000, characters=8 * 40)[-40:] == list(range(60, 100))
        assert len(numbers(1_000, characters=8 * 40)) < 100
        page = sessions.turns(connection, session.id, limit=2)
        assert [turn.user for turn in page] == ["q099", "q098"]
        assert [turn.assistant for turn in sessions.turns(connection, session.id, before=page[-1].seq, limit=1)] == ["a097"]


def test_turns_numbered_crosswise_stay_together(database: Database, clock: ManualClock) -> None:
    from agent_pipelines.store.tables import session_turns

    sessions = Sessions(clock)
    with database.transaction() as connection:
        session = sessions.open(connection, TASK, A, "writer", "1")
        for role, content, execution in (
            ("user", "q1", "1"),
            ("user", "q2", "2"),
            ("assistant", "a2", "2"),
            ("assistant", "a1", "1"),
        ):
            row = {"session_id": session.id, "execution_id": execution, "role": role, "content": content, "created_at": 1}
            connection.execute(session_turns.insert().values(**row))
        assert [m.content for m in sessions.history(connection, session.id, limit=9)] == ["q1", "a1", "q2", "a2"]


def test_sessions_are_listed_newest_first_by_key(database: Database, clock: ManualClock) -> None:
    sessions = Sessions(clock)
    with database.transaction() as connection:
        for number in range(5):
            sessions.open(connection, FRESH, A, "writer", f"e{number}")
        sessions.open(connection, DESK, A, "coder", "e9")
        first = sessions.list(connection, mode="fresh", limit=3)
        rest = sessions.list(connection, mode="fresh", limit=3, before=first[-1].seq)
        assert [session.name for session in [*first, *rest]] == ["e4", "e3", "e2", "e1", "e0"]
        assert [session.name for session in sessions.list(connection, agent="coder")] == ["desk"]
        assert [session.agent for session in sessions.list(connection, name="desk")] == ["coder"]
        assert sessions.list(connection, workspace="other") == []


def test_turns_hold_no_secret_and_no_unstorable_text(database: Database, clock: ManualClock) -> None:
    redactor.register("correct-horse-battery")
    sessions = Sessions(clock)
    with database.transaction() as connection:
        session = sessions.open(connection, FRESH, A, "writer", "1")
        sessions.append(connection, session.id, "1", user="use correct-horse-battery", assistant="nul\0 \ud800")
        (turn,) = sessions.turns(connection, session.id)
        assert (turn.user, turn.assistant) == ("use [secret]", "nul\ufffd ?")
