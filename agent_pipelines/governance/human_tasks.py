"""What people are asked, and what they decide."""

from collections.abc import Mapping, Sequence
from typing import Literal

import sqlalchemy as sa
from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError, DefinitionError
from agent_pipelines.core.ids import ids_beginning, new_id
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey
from agent_pipelines.governance.audit import Audit
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.storable import storable, storable_text
from agent_pipelines.store.tables import human_tasks

Subject = Literal["effect", "degraded", "approval", "question"]
"""What is asked about: an effect of unknown outcome, a degraded result, something to approve, or a question of an agent."""


class HumanTask(OfTask):
    """One question to people, and its answer once there is one.

    `options` are the allowed answers; without any every text is one. `answer_data` is what an answer brings with it, as in
    the edited text of a draft.
    """

    seq: int
    id: str
    execution_id: str | None
    subject: Subject
    subject_id: str
    question: str
    options: tuple[str, ...]
    context: dict[str, JsonValue]
    opened_at: Microseconds
    opened_by: str
    answer: str | None
    answer_data: JsonValue
    answered_at: Microseconds | None
    answered_by: str | None
    comment: str | None

    @property
    def is_open(self) -> bool:
        """Whether nobody has answered yet."""
        return self.answered_at is None


class NoHumanTask(AgentPipelinesError):
    """There is no human task of that id."""


class AlreadyAnswered(AgentPipelinesError):
    """The human task has its answer, which is never changed."""

    def __init__(self, task: HumanTask) -> None:
        super().__init__(f"human task {task.id} was answered by {task.answered_by}: {task.answer}")
        self.task = task


class HumanTasks:
    """Writes and reads the questions to people. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock, audit: Audit) -> None:
        self._clock = clock
        self._audit = audit

    def open(
        self,
        connection: sa.Connection,
        task: TaskKey,
        *,
        subject: Subject,
        subject_id: str,
        question: str,
        options: Sequence[str] = (),
        context: Mapping[str, JsonValue] | None = None,
        execution_id: str | None = None,
        opened_by: str = "system",
    ) -> HumanTask:
        """Ask people about a subject, and return the question; one that is open already is returned as it is."""
        workspace, application, name = task
        row = {
            "id": new_id(),
            "workspace": workspace,
            "application": application,
            "task": name,
            "execution_id": execution_id,
            "subject": subject,
            "subject_id": subject_id,
            "question": redactor.text(storable_text(question)),
            "options": [storable_text(option) for option in options],
            "context": redactor.value(storable(dict(context or {}))),
            "opened_at": self._clock.now(),
            "opened_by": opened_by,
        }
        insert_new(connection, human_tasks, row)
        found = self.of_subject(connection, subject, subject_id, workspace=workspace)
        assert found is not None
        return found

    def answer(
        self,
        connection: sa.Connection,
        id: str,
        answer: str,
        *,
        actor: str,
        data: JsonValue = None,
        comment: str | None = None,
    ) -> HumanTask:
        """Give the answer, once and for ever, and leave an audit row.

        Raises NoHumanTask, AlreadyAnswered, and DefinitionError for an answer that is not among the options.
        """
        task = self.get(connection, id)
        if task is None:
            raise NoHumanTask(f"there is no human task {id}")
        if not task.is_open:
            raise AlreadyAnswered(task)
        if task.options and answer not in task.options:
            raise DefinitionError(
                f"{answer!r} is not an answer to this question", field="answer", fix=f"Write one of {', '.join(task.options)}"
            )
        if not answer.strip():
            raise DefinitionError("is empty", field="answer", fix="Write what you decided")
        values = {
            "answer": redactor.text(storable_text(answer)),
            "answer_data": redactor.value(storable(data)),
            "answered_at": self._clock.now(),
            "answered_by": actor,
            "comment": None if comment is None else redactor.text(storable_text(comment)),
        }
        mine = human_tasks.update().where(human_tasks.c.id == id, human_tasks.c.answered_at.is_(None)).values(**values)
        row = connection.execute(mine.returning(human_tasks)).mappings().first()
        if row is None:  # somebody else was faster
            decided = self.get(connection, id)
            assert decided is not None
            raise AlreadyAnswered(decided)
        details: dict[str, JsonValue] = {
            "human_task": id,
            "subject": task.subject,
            "subject_id": task.subject_id,
            "answer": answer,
            "data": data,
            "comment": comment,
        }
        self._audit.record(
            connection,
            actor=actor,
            action="human.answer",
            object=task.path,
            details={name: value for name, value in details.items() if value is not None},
            workspace=task.workspace,
        )
        return HumanTask.model_validate(row)

    def get(self, connection: sa.Connection, id: str) -> HumanTask | None:
        """The question of an id."""
        return self._first(connection, human_tasks.c.id == id)

    def of_subject(
        self, connection: sa.Connection, subject: Subject, subject_id: str, *, workspace: str = "default"
    ) -> HumanTask | None:
        """The newest question about a subject, open or answered."""
        c = human_tasks.c
        return self._first(connection, c.workspace == workspace, c.subject == subject, c.subject_id == subject_id)

    def of_execution(self, connection: sa.Connection, execution_id: str) -> Sequence[HumanTask]:
        """The questions that belong to an execution, oldest first."""
        query = sa.select(human_tasks).where(human_tasks.c.execution_id == execution_id).order_by(human_tasks.c.seq)
        return [HumanTask.model_validate(row) for row in connection.execute(query).mappings()]

    def find(self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5) -> Sequence[HumanTask]:
        """Questions whose id begins so, with or without its dashes, oldest first."""
        ids = ids_beginning(prefix)
        if ids is None:
            return []
        query = sa.select(human_tasks).where(human_tasks.c.workspace == workspace, human_tasks.c.id.between(*ids))
        rows = connection.execute(query.order_by(human_tasks.c.id).limit(limit)).mappings()
        return [HumanTask.model_validate(row) for row in rows]

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        application: str | None = None,
        task: str | None = None,
        subject: Subject | None = None,
        is_open: bool | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[HumanTask]:
        """Questions, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        c = human_tasks.c
        query = sa.select(human_tasks).where(
            *equal({c.workspace: workspace, c.application: application, c.task: task, c.subject: subject}),
            *within(c.seq, None, before),
        )
        if is_open is not None:
            query = query.where(c.answered_at.is_(None) if is_open else c.answered_at.is_not(None))
        rows = connection.execute(query.order_by(c.seq.desc()).limit(limit)).mappings()
        return [HumanTask.model_validate(row) for row in rows]

    def _first(self, connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> HumanTask | None:
        query = sa.select(human_tasks).where(*conditions).order_by(human_tasks.c.seq.desc()).limit(1)
        row = connection.execute(query).mappings().first()
        return None if row is None else HumanTask.model_validate(row)
