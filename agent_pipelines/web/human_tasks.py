"""What the HTTP interface does with questions to people."""

from collections.abc import Sequence
from http import HTTPStatus

from agent_pipelines.core.plain import record
from agent_pipelines.governance.human_tasks import HumanTask, NoHumanTask
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection
from agent_pipelines.web.asked import Decision, HumanTaskPage, Query
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation


class HumanTaskOperations:
    """Listing, showing and answering human tasks."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/human-tasks", "What people are asked, newest first.", self.list, query=HumanTaskPage),
            Operation("GET", "/human-tasks/{id}", "One human task.", self.show),
            Operation("POST", "/human-tasks/{id}/answer", "Answer a human task, once.", self.answer, body=Decision),
        )

    def list(self, call: Call) -> Answer:
        asked = call.query(HumanTaskPage)
        values = asked.model_dump(exclude={"state"})
        is_open = None if asked.state == "all" else asked.state == "open"
        with self._hub.database.reading() as connection:
            page = self._hub.human_tasks.list(connection, is_open=is_open, **values)
        following = page[-1].seq if len(page) == asked.limit else None
        return HTTPStatus.OK, {"human_tasks": [record(task) for task in page], "next_before": following}

    def show(self, call: Call) -> Answer:
        with self._hub.database.reading() as connection:
            return HTTPStatus.OK, {"human_task": record(self._found(connection, call))}

    def answer(self, call: Call) -> Answer:
        decision = call.read(Decision)
        with self._hub.database.transaction() as connection:
            done = self._hub.human_tasks.answer(
                connection,
                self._found(connection, call).id,
                decision.answer,
                actor=call.actor,
                data=decision.data,
                comment=decision.comment,
            )
        return HTTPStatus.OK, {"human_task": record(done)}

    def _found(self, connection: Connection, call: Call) -> HumanTask:
        workspace, id = call.query(Query).workspace, call.path["id"]
        found = self._hub.human_tasks.get(connection, id)
        if found is None or found.workspace != workspace:
            raise NoHumanTask(f"there is no human task {id}")
        return found
