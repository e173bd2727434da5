"""What the HTTP interface does with registered tasks."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.plain import record
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.registry.reading import read_spec
from agent_pipelines.registry.registered import RegisteredTask
from agent_pipelines.registry.registry import NotRegistered, Registration
from agent_pipelines.web.asked import Nothing, Pause, Query, Run, TaskPage, VersionPage
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation

_TASK = "/tasks/{application}/{task}"


class TaskOperations:
    """Registering, listing and switching tasks. `declared` tells what the code locations declare."""

    def __init__(self, hub: Hub, declared: Callable[[], Declared]) -> None:
        self._hub = hub
        self._declared = declared

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/tasks", "List registered tasks by their path.", self.list, query=TaskPage),
            Operation(
                "POST",
                "/tasks",
                "Register a task or a list of them, or new versions; all or nothing of what is wrong.",
                self.register,
                body=TaskSpec,
                takes_many=True,
            ),
            Operation("GET", _TASK, "A registered task with its specification and triggers.", self.show),
            Operation("PUT", _TASK, "Register a task of this name, or a new version.", self.put, body=TaskSpec),
            Operation("DELETE", _TASK, "Take a task out; its versions and its record stay.", self.remove),
            Operation("POST", f"{_TASK}/enable", "Switch a task on.", self.enable, body=Nothing),
            Operation("POST", f"{_TASK}/disable", "Switch a task off; it still runs on demand.", self.disable, body=Nothing),
            Operation("POST", f"{_TASK}/pause", "Hold a task until it is resumed.", self.pause, body=Pause),
            Operation("POST", f"{_TASK}/resume", "End a pause; nothing is caught up.", self.resume, body=Nothing),
            Operation("POST", f"{_TASK}/run", "Ask for one execution now; a burst takes it.", self.run, body=Run),
            Operation("GET", f"{_TASK}/versions", "The versions of a task, newest first.", self.versions, query=VersionPage),
        )

    def list(self, call: Call) -> Answer:
        asked = call.query(TaskPage)
        with self._hub.database.reading() as connection:
            page = self._hub.registered.list(connection, **asked.model_dump())
        following = page[-1].path if len(page) == asked.limit else None
        return HTTPStatus.OK, {"tasks": [record(task) for task in page], "next_after": following}

    def register(self, call: Call) -> Answer:
        workspace, body = call.query(Query).workspace, call.body
        if not isinstance(body, list):
            return self._register_one(call, read_spec(_in_workspace(body, workspace)))
        specs: list[TaskSpec] = []
        places: list[str] = []
        problems: list[DefinitionError] = []
        for number, values in enumerate(body):
            try:
                specs.append(read_spec(_in_workspace(values, workspace), place=f"[{number}]"))
                places.append(f"[{number}]")
            except DefinitionError as error:
                problems.append(error)
        refuse(problems)
        done = self._hub.registry.register_many(specs, self._declared(), actor=call.actor, places=places)
        return HTTPStatus.OK, {"tasks": [_registration(each) for each in done]}

    def put(self, call: Call) -> Answer:
        workspace, application, name = call.key(call.query(Query).workspace)
        body = call.body
        if isinstance(body, dict):
            body = {"name": name, "application": application, **_in_workspace(body, workspace)}
        spec = read_spec(body)
        for field, written, meant in (("name", spec.name, name), ("application", spec.application, application)):
            if written != meant:
                raise DefinitionError(f"is `{written}`, but the address says `{meant}`", field=field, fix="Leave it out")
        return self._register_one(call, spec)

    def show(self, call: Call) -> Answer:
        key = call.key(call.query(Query).workspace)
        with self._hub.database.reading() as connection:
            task = self._hub.registered.get(connection, key)
            if task is None:
                raise NotRegistered(f"no task {key[1]}/{key[2]} is registered")
            triggers = self._hub.triggers.list(connection, task=key)
        spec = self._hub.registry.spec_of(task).canonical()
        told = [record(each, definition=each.definition.model_dump(mode="json")) for each in triggers]
        return HTTPStatus.OK, {"task": record(task), "spec": spec, "triggers": told}

    def remove(self, call: Call) -> Answer:
        return self._switched(call, self._hub.registry.remove)

    def enable(self, call: Call) -> Answer:
        return self._switched(call, self._hub.registry.enable)

    def disable(self, call: Call) -> Answer:
        return self._switched(call, self._hub.registry.disable)

    def resume(self, call: Call) -> Answer:
        return self._switched(call, self._hub.registry.resume)

    def pause(self, call: Call) -> Answer:
        key = call.key(call.query(Query).workspace)
        task = self._hub.registry.pause(key, call.read(Pause).reason, actor=call.actor)
        return HTTPStatus.OK, {"task": record(task)}

    def run(self, call: Call) -> Answer:
        key, asked = call.key(call.query(Query).workspace), call.read(Run)
        tick = self._hub.registry.run_now(key, actor=call.actor, variables=asked.variables, logical_at=asked.logical_at)
        return HTTPStatus.ACCEPTED, {"tick": record(tick)}

    def versions(self, call: Call) -> Answer:
        asked = call.query(VersionPage)
        key = call.key(asked.workspace)
        with self._hub.database.reading() as connection:
            page = self._hub.registered.versions(connection, key, before=asked.before, limit=asked.limit)
        if not page and asked.before is None:
            raise NotRegistered(f"no task {key[1]}/{key[2]} was ever registered")
        following = page[-1].version if len(page) == asked.limit else None
        return HTTPStatus.OK, {"versions": [record(version) for version in page], "next_before": following}

    def _register_one(self, call: Call, spec: TaskSpec) -> Answer:
        done = self._hub.registry.register(spec, self._declared(), actor=call.actor)
        status = HTTPStatus.CREATED if done.is_new else HTTPStatus.OK
        return status, {"task": _registration(done)}

    def _switched(self, call: Call, verb: "Callable[..., RegisteredTask]") -> Answer:
        key: TaskKey = call.key(call.query(Query).workspace)
        call.read(Nothing)
        return HTTPStatus.OK, {"task": record(verb(key, actor=call.actor))}


def _in_workspace(values: Any, workspace: str) -> Any:
    return {"workspace": workspace, **values} if isinstance(values, dict) else values


def _registration(done: Registration) -> dict[str, Any]:
    return record(done.task, new=done.is_new)
