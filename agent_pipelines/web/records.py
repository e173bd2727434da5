"""What the HTTP interface tells of the record, and the events that it takes."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.execution import Status
from agent_pipelines.core.plain import record
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.web.asked import Event, ExecutionPage, Nothing, Query, TickPage
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation
from agent_pipelines.web.problem import Refused

# What a list of executions leaves out: it can be large, and the execution itself has it.
_LARGE = ("invocation", "text", "output", "checks", "trimmed")


class RecordOperations:
    """Ticks, executions, events, and whether all is well."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/ticks", "What was due, newest first, and what became of it.", self.ticks, query=TickPage),
            Operation("GET", "/ticks/{id}", "One tick.", self.tick),
            Operation("GET", "/executions", "What agents have done, newest first.", self.executions, query=ExecutionPage),
            Operation("GET", "/executions/{id}", "One execution with its attempts, and what they wait for.", self.execution),
            Operation(
                "POST",
                "/executions/{id}/cancel",
                "End an execution that waits, here and at its agent.",
                self.cancel,
                body=Nothing,
            ),
            Operation("POST", "/events", "Send an event, which may make tasks due.", self.send, body=Event),
            Operation("GET", "/health", "Whether the record can be used.", self.health, is_open=True),
        )

    def ticks(self, call: Call) -> Answer:
        asked = call.query(TickPage)
        values = asked.model_dump(exclude={"since", "until"})
        with self._hub.database.reading() as connection:
            page = self._hub.ticks.list(connection, due_from=asked.since, due_to=asked.until, **values)
        following = page[-1].seq if len(page) == asked.limit else None
        return HTTPStatus.OK, {"ticks": [record(tick) for tick in page], "next_before": following}

    def tick(self, call: Call) -> Answer:
        workspace, tick_id = call.query(Query).workspace, call.path["id"]
        with self._hub.database.reading() as connection:
            found = self._hub.ticks.by_ids(connection, [tick_id]).get(tick_id)
        if found is None or found.workspace != workspace:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no tick {tick_id}")
        return HTTPStatus.OK, {"tick": record(found)}

    def executions(self, call: Call) -> Answer:
        asked = call.query(ExecutionPage)
        values = asked.model_dump(exclude={"since", "until"})
        with self._hub.database.reading() as connection:
            page = self._hub.executions.list(connection, created_from=asked.since, created_to=asked.until, **values)
        following = page[-1].seq if len(page) == asked.limit else None
        told = [{name: value for name, value in _execution(each).items() if name not in _LARGE} for each in page]
        return HTTPStatus.OK, {"executions": told, "next_before": following}

    def execution(self, call: Call) -> Answer:
        workspace, execution_id = call.query(Query).workspace, call.path["id"]
        with self._hub.database.reading() as connection:
            found = self._hub.executions.get(connection, execution_id)
            if found is None or found.workspace != workspace:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no execution {execution_id}")
            attempts = self._hub.executions.attempts.of(connection, execution_id)
            waits = self._hub.executions.waits.of(connection, execution_id)
        return HTTPStatus.OK, {
            "execution": _execution(found),
            "attempts": [record(attempt) for attempt in attempts],
            "waits": [wait.told() for wait in waits],
        }

    def cancel(self, call: Call) -> Answer:
        workspace, execution_id = call.query(Query).workspace, call.path["id"]
        call.read(Nothing)
        reason = f"cancelled by {call.actor}"
        with self._hub.database.transaction() as connection:
            found = self._hub.executions.get(connection, execution_id)
            if found is None or found.workspace != workspace:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no execution {execution_id}")
            if found.status is not Status.WAITING or not self._hub.executions.cancel(connection, execution_id, reason):
                raise Refused(
                    HTTPStatus.CONFLICT, f"execution {execution_id} is {found.status}; only one that waits is cancelled here"
                )
            self._hub.audit.record(
                connection,
                actor=call.actor,
                action="execution.cancel",
                object=found.path,
                details={"execution": execution_id},
                workspace=workspace,
            )
            found = self._hub.executions.get(connection, execution_id) or found
        return HTTPStatus.OK, {"execution": _execution(found)}

    def send(self, call: Call) -> Answer:
        workspace, event = call.query(Query).workspace, call.read(Event)
        hub = self._hub
        with hub.database.transaction() as connection:
            event_id, is_new = hub.inbox.put(
                connection, event.type, event.data, workspace=workspace, source=event.source, key=event.key, actor=call.actor
            )
            if is_new:
                details = {"event_id": event_id, "key": event.key}
                hub.audit.record(
                    connection, actor=call.actor, action="event.send", object=event.type, details=details, workspace=workspace
                )
        return HTTPStatus.CREATED if is_new else HTTPStatus.OK, {"id": event_id, "new": is_new}

    def health(self, call: Call) -> Answer:
        try:
            with self._hub.database.reading() as connection:
                self._hub.daemons.alive(connection)
        except StorageError:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ok"}
        return HTTPStatus.OK, {"status": "ok"}


def _execution(execution: StoredExecution) -> dict[str, Any]:
    return record(execution, duration_seconds=execution.duration_seconds, total_tokens=execution.usage.total_tokens)
