"""What the HTTP interface does with limits."""

from collections.abc import Sequence
from http import HTTPStatus

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.limit import LimitSpec, Scope
from agent_pipelines.core.plain import record
from agent_pipelines.hub import Hub
from agent_pipelines.web.asked import LimitValues
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation

_LIMIT = "/limits/{scope:path}"


class LimitOperations:
    """Listing, setting and clearing limits, and who waits for them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/limits", "All limits, where they come from, and what runs and waits under them.", self.list),
            Operation("PUT", _LIMIT, "Set the limit of a scope, over the one declared.", self.set, body=LimitValues),
            Operation("DELETE", _LIMIT, "Take back what was set; a declared limit holds again.", self.clear),
            Operation("GET", "/queue", "What runs and waits under limits, in the order in which it goes on.", self.queue),
        )

    def list(self, call: Call) -> Answer:
        return HTTPStatus.OK, {"limits": [record(each) for each in self._hub.limiting.standing()]}

    def set(self, call: Call) -> Answer:
        scope, values = _scope(call), call.read(LimitValues).model_dump()
        try:
            spec = LimitSpec.model_validate({"scope": scope, **values})
        except ValueError as error:
            raise DefinitionError(
                _words(error), fix="Write `concurrency`, `requests` or `tokens`, and a burst with its rate"
            ) from None
        return HTTPStatus.OK, {"limit": record(self._hub.limiting.set(spec, actor=call.actor))}

    def clear(self, call: Call) -> Answer:
        found = self._hub.limiting.clear(_scope(call), actor=call.actor)
        return HTTPStatus.OK, {"limit": None if found is None else record(found)}

    def queue(self, call: Call) -> Answer:
        now = self._hub.clock.now()
        told = [
            record(each, waited_seconds=0.0 if each.waits_since is None else (now - each.waits_since) / 1_000_000)
            for each in self._hub.limiting.queue()
        ]
        return HTTPStatus.OK, {"queue": told}


def _scope(call: Call) -> str:
    try:
        return str(Scope.parse(call.path["scope"]))
    except ValueError as error:
        raise DefinitionError(_words(error), field="scope") from None


def _words(error: ValueError) -> str:
    found = getattr(error, "errors", None)
    words = str(found()[0]["msg"]) if found is not None else str(error)
    return words.removeprefix("Value error, ")
