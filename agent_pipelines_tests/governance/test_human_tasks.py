from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.secrets import redactor
from agent_pipelines.governance.audit import Audit
from agent_pipelines.governance.human_tasks import AlreadyAnswered, HumanTask, HumanTasks, NoHumanTask
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import human_tasks

TASK = ("default", "orders", "refund")


@pytest.fixture
def tasks(clock: ManualClock) -> HumanTasks:
    return HumanTasks(clock, Audit(clock))


def ask(database: Database, tasks: HumanTasks, subject_id: str = "a", **fields: Any) -> HumanTask:
    with database.transaction() as connection:
        given = {"subject": "effect", "question": "Was it paid?", "options": ["yes", "no"], **fields}
        return tasks.open(connection, TASK, subject_id=subject_id, **given)


def test_a_subject_has_one_open_question(database: Database, tasks: HumanTasks) -> None:
    first = ask(database, tasks)
    again = ask(database, tasks, question="Something else?")
    assert again == first
    assert ask(database, tasks, subject="approval").id != first.id
    with database.transaction() as connection:
        tasks.answer(connection, first.id, "no", actor="kim")
    later = ask(database, tasks)
    assert (later.is_open, later.id != first.id) == (True, True)


def test_an_answer_is_given_once_and_audited(database: Database, tasks: HumanTasks, clock: ManualClock) -> None:
    task = ask(database, tasks)
    clock.time += 5
    with database.transaction() as connection:
        done = tasks.answer(connection, task.id, "yes", actor="kim", data={"amount": 3}, comment="seen at the bank")
    assert (done.answer, done.answer_data, done.answered_by, done.answered_at) == ("yes", {"amount": 3}, "kim", clock.now())
    with pytest.raises(AlreadyAnswered, match="answered by kim: yes"), database.transaction() as connection:
        tasks.answer(connection, task.id, "no", actor="ana")
    with database.reading() as connection:
        assert tasks.get(connection, task.id) == done
        (entry,) = Audit(clock).list(connection)
    assert (entry.actor, entry.action, entry.object) == ("kim", "human.answer", "orders/refund")
    assert entry.details["answer"] == "yes"


@pytest.mark.parametrize("change", [{"answer": "no"}, {"answered_at": None, "answer": None, "answered_by": None}])
def test_the_database_keeps_an_answer(database: Database, tasks: HumanTasks, change: dict[str, Any]) -> None:
    task = ask(database, tasks)
    with database.transaction() as connection:
        tasks.answer(connection, task.id, "yes", actor="kim")
    with pytest.raises(IntegrityError, match="has its answer"), database.transaction() as connection:
        connection.execute(human_tasks.update().values(**change))


def test_what_is_no_answer_is_refused(database: Database, tasks: HumanTasks) -> None:
    task, free = ask(database, tasks), ask(database, tasks, "b", options=())
    for id, answer, words in ((task.id, "perhaps", "Write one of yes, no"), (free.id, " ", "Write what you decided")):
        with pytest.raises(DefinitionError, match=words), database.transaction() as connection:
            tasks.answer(connection, id, answer, actor="kim")
    with pytest.raises(NoHumanTask), database.transaction() as connection:
        tasks.answer(connection, new_id(), "yes", actor="kim")
    with database.transaction() as connection:
        assert tasks.answer(connection, free.id, "As in May", actor="kim").answer == "As in May"


def test_questions_are_found_and_listed_by_key(database: Database, tasks: HumanTasks) -> None:
    asked = [ask(database, tasks, str(number), execution_id=f"e{number % 2}") for number in range(5)]
    with database.transaction() as connection:
        tasks.answer(connection, asked[0].id, "yes", actor="kim")
    with database.reading() as connection:
        first = tasks.list(connection, limit=2)
        rest = tasks.list(connection, before=first[-1].seq)
        assert [task.id for task in [*first, *rest]] == [task.id for task in reversed(asked)]
        assert len(tasks.list(connection, is_open=True, application="orders", task="refund", subject="effect")) == 4
        assert [task.id for task in tasks.list(connection, is_open=False)] == [asked[0].id]
        assert tasks.list(connection, workspace="other") == []
        assert [task.id for task in tasks.find(connection, asked[3].id.replace("-", "")[:31])][:1] == [asked[3].id]
        assert tasks.find(connection, "no id") == []
        assert [task.subject_id for task in tasks.of_execution(connection, "e1")] == ["1", "3"]


def test_no_secret_is_kept(database: Database, tasks: HumanTasks) -> None:
    redactor.register("correct-horse-battery")
    task = ask(database, tasks, question="Is correct-horse-battery right?", context={"key": "correct-horse-battery"})
    assert (task.question, task.context) == ("Is [secret] right?", {"key": "[secret]"})
    with database.transaction() as connection:
        done = tasks.answer(
            connection, task.id, "yes", actor="kim", data=["correct-horse-battery"], comment="correct-horse-battery"
        )
    assert (done.answer_data, done.comment) == (["[secret]"], "[secret]")
