"""Questions that only a person can answer."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from pydantic import ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import DefinitionError, IllegalTransition
from agent_pipelines.core.ids import dashed, new_id
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import TaskKey
from agent_pipelines.governance.audit import Audit
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.storable import storable
from agent_pipelines.store.tables import human_tasks


class HumanTask(OfTask):
    """A question, and its answer once there is one. Instants are UTC microseconds.

    `subject` is what it is about, as in `effect`, and `subject_id` which one; `options` are the answers that are allowed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    execution_id: str | None
    subject: str
    subject_id: str
    question: str
    options: tuple[str, ...]
    context: dict[str, JsonValue]
    opened_at: Microseconds
    opened_by: str
    answer: str | None
    data: JsonValue
    comment: str | None
    answered_by: str | None
    answered_at: Microseconds | None


class HumanTasks:
    """Writes and reads the questions. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock, audit: Audit) -> None:
        self._clock = clock
        self._audit = audit

    def open(
        self,
        connection: sa.Connection,
        task: TaskKey,
        subject: str,
        subject_id: str,
        question: str,
        options: Sequence[str],
        *,
        execution_id: str | None = None,
        context: Mapping[str, JsonValue] | None = None,
        by: str = "system",
    ) -> HumanTask:
        """Ask, unless the same is being asked already; returns the open question."""
        workspace, application, name = task
        row = {
            "id": new_id(),
            "workspace": workspace,
            "application": application,
            "task": name,
            "execution_id": execution_id,
            "subject": subject,
            "subject_id": subject_id,
            "question": redactor.text(question),
            "options": list(options),
            "context": redactor.value(storable(dict(context or {}))),
            "opened_at": self._clock.now(),
            "opened_by": by,
        }
        insert_new(connection, human_tasks, row)
        found = self.open_about(connection, workspace, subject, subject_id)
        assert found is not None
        return found

    def answer(
        self,
        connection: sa.Connection,
        human_task_id: str,
        answer: str,
        *,
        by: str,
        data: JsonValue = None,
        comment: str | None = None,
    ) -> HumanTask:
        """Keep the answer, which is audited.

        Raises DefinitionError if it is none of the options, IllegalTransition if the question was answered before.
        """
        asked = self.get(connection, human_task_id)
        if asked is None:
            raise DefinitionError(f"there is no human task {human_task_id!r}", field="id")
        if answer not in asked.options:
            raise DefinitionError(
                f"{answer!r} is no answer to this question", field="answer", fix=f"Write one of {', '.join(asked.options)}"
            )
        change = human_tasks.update().where(human_tasks.c.id == human_task_id, human_tasks.c.answer.is_(None))
        values = {
            "answer": answer,
            "data": redactor.value(storable(data)),
            "comment": None if comment is None else redactor.text(comment),
            "answered_by": by,
            "answered_at": self._clock.now(),
        }
        row = connection.execute(change.values(**values).returning(*human_tasks.c)).mappings().first()
        if row is None:
            raise IllegalTransition(f"human task {human_task_id} was answered already: {asked.answer} by {asked.answered_by}")
        details: dict[str, JsonValue] = {"answer": answer, "subject": asked.subject, "subject_id": asked.subject_id}
        self._audit.record(
            connection, actor=by, action="human_task.answer", object=human_task_id, details=details, workspace=asked.workspace
        )
        return HumanTask.model_validate(row)

    def get(self, connection: sa.Connection, human_task_id: str) -> HumanTask | None:
        """A question by its id."""
        row = connection.execute(sa.select(human_tasks).where(human_tasks.c.id == human_task_id)).mappings().first()
        return None if row is None else HumanTask.model_validate(row)

    def open_about(self, connection: sa.Connection, workspace: str, subject: str, subject_id: str) -> HumanTask | None:
        """The open question about a subject."""
        about = (
            human_tasks.c.workspace == workspace,
            human_tasks.c.subject == subject,
            human_tasks.c.subject_id == subject_id,
            human_tasks.c.answer.is_(None),
        )
        row = connection.execute(sa.select(human_tasks).where(*about)).mappings().first()
        return None if row is None else HumanTask.model_validate(row)

    def find(self, connection: sa.Connection, prefix: str, *, workspace: str = "default", limit: int = 5) -> Sequence[HumanTask]:
        """Questions whose id begins so, with or without its dashes, oldest first."""
        digits = prefix.replace("-", "").lower()
        if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
            return []
        first, last = (dashed(digits.ljust(32, fill)) for fill in "0f")
        query = sa.select(human_tasks).where(human_tasks.c.workspace == workspace, human_tasks.c.id.between(first, last))
        rows = connection.execute(query.order_by(human_tasks.c.id).limit(limit)).mappings()
        return [HumanTask.model_validate(row) for row in rows]

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        open_only: bool = False,
        execution_id: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[HumanTask]:
        """Questions, newest first, a page at a time: `before` is the `seq` of the last one of the page before."""
        query = sa.select(human_tasks).where(human_tasks.c.workspace == workspace)
        query = query.where(*equal({human_tasks.c.execution_id: execution_id}), *within(human_tasks.c.seq, None, before))
        if open_only:
            query = query.where(human_tasks.c.answer.is_(None))
        rows = connection.execute(query.order_by(human_tasks.c.seq.desc()).limit(limit)).mappings()
        return [HumanTask.model_validate(row) for row in rows]
