"""Where remote agents say that work has come to its end."""

from collections.abc import Sequence
from http import HTTPStatus

from agent_pipelines.hub import Hub
from agent_pipelines.web.asked import CallbackQuery
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation
from agent_pipelines.web.problem import Refused


class WaitOperations:
    """Callbacks. Who calls shows the token of the wait, which opens nothing else."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def all(self) -> Sequence[Operation]:
        """The operations."""
        summary = "Have a wait looked at now; its own token as bearer, or as `token` in the address."
        return (Operation("POST", "/waits/{id}/callback", summary, self.call_back, query=CallbackQuery, is_open=True),)

    def call_back(self, call: Call) -> Answer:
        token = call.query(CallbackQuery).token or call.bearer or ""
        with self._hub.database.transaction() as connection:
            is_known = self._hub.executions.waits.call_back(connection, call.path["id"], token)
        if not is_known:
            raise Refused(HTTPStatus.UNAUTHORIZED, "there is no such wait, or this is not its token")
        return HTTPStatus.ACCEPTED, {}
