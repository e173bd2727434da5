"""Nodes that fetch their work: an attempt is handed over as an order, and its events are read as they come."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, JsonValue, ValidationError

from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, event_adapter
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig


class NodeConfig(RuntimeConfig):
    """Settings of an agent whose nodes fetch their work (`agent-pipelines node run`)."""

    lease: Duration = Field(
        default=Duration(90),
        description="For how long a node that is cut off keeps its work; after that its report is refused.",
        examples=["5m"],
    )
    keeps_sessions: bool = Field(default=False, description="Whether the runtime of the nodes continues sessions by id.")
    structured_output: bool = Field(default=False, description="Whether the runtime of the nodes takes a JSON Schema.")
    honours_idempotency_key: bool = Field(
        default=False, description="Whether the runtime of the nodes acts once on a repeated idempotency key."
    )


@dataclass(frozen=True)
class Reply:
    """What has come of an order since the last look."""

    state: Literal["queued", "claimed", "finished", "lost", "withdrawn", "cancelled"]
    events: Sequence[Mapping[str, JsonValue]] = ()
    failure: Mapping[str, JsonValue] | None = None


class Mailbox(Protocol):
    """Where orders are left for nodes and their answers are found."""

    async def send(self, agent: str, node: str, invocation: Invocation, lease: float) -> str:
        """Leave an order; returns its id."""
        ...

    async def read(self, order_id: str, after: int) -> Reply:
        """Wait until there are events after a number, or the order has ended."""
        ...

    async def close(self, order_id: str) -> None:
        """Say that nobody waits for the order any more; one that runs is cancelled."""
        ...


class NodeRuntime(Runtime[NodeConfig]):
    """A node that fetches its work. Which one, and by which mailbox, is said by `at`."""

    kind = "node"
    config_type = NodeConfig
    capabilities = Capabilities(streams=True, reports_usage=True)

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.capabilities = Capabilities(
            streams=True,
            reports_usage=True,
            keeps_sessions=config.keeps_sessions,
            structured_output=config.structured_output,
            honours_idempotency_key=config.honours_idempotency_key,
        )
        self._mailbox: Mailbox | None = None
        self._agent = self._node = ""

    def at(self, agent: str, node: str, mailbox: Mailbox) -> "NodeRuntime":
        """The same for one node."""
        bound = NodeRuntime(self.config)
        bound._mailbox, bound._agent, bound._node = mailbox, agent, node
        return bound

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Hand one attempt over and read what comes of it."""
        if self._mailbox is None:
            raise RuntimeFailure(
                ErrorClass.CONNECTION, "no node has been chosen; agents of kind `node` work within executions only"
            )
        mailbox = self._mailbox
        order_id = await mailbox.send(self._agent, self._node, invocation, self.config.lease)
        try:
            seen = 0
            while True:
                reply = await mailbox.read(order_id, seen)
                for event in map(self._event, reply.events):
                    seen += 1
                    yield event
                if reply.state == "finished":
                    if reply.failure is not None:
                        raise failure_of(reply.failure)
                    return
                if reply.state in _ENDINGS:
                    error_class, words = _ENDINGS[reply.state]
                    raise RuntimeFailure(error_class, f"node {self._node}: {words}")
        finally:
            await mailbox.close(order_id)

    def _event(self, written: Mapping[str, JsonValue]) -> AgentEvent:
        try:
            return event_adapter.validate_python(written)
        except ValidationError:
            kind = written.get("kind")
            raise RuntimeFailure(
                ErrorClass.PROTOCOL, f"node {self._node} sent an event of kind {kind!r} that cannot be read"
            ) from None


_ENDINGS = {
    "lost": (ErrorClass.UNKNOWN_OUTCOME, "its lease ended before it answered"),
    "withdrawn": (ErrorClass.CONNECTION, "it fell silent before it took the work"),
    "cancelled": (ErrorClass.UNKNOWN_OUTCOME, "the work was taken from it"),
}


def written_failure(failure: RuntimeFailure) -> dict[str, JsonValue]:
    """A failure as a node reports it."""
    return {
        "error_class": str(failure.error_class),
        "message": failure.message,
        "retry_after": failure.retry_after,
        "status": failure.status,
        "code": failure.code,
    }


def failure_of(written: Mapping[str, JsonValue]) -> RuntimeFailure:
    """The failure that a node reports."""
    retry_after, status, code = written.get("retry_after"), written.get("status"), written.get("code")
    try:
        error_class = ErrorClass(str(written.get("error_class")))
    except ValueError:
        error_class = ErrorClass.PROTOCOL
    return RuntimeFailure(
        error_class,
        str(written.get("message", "")),
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        status=status if isinstance(status, int) else None,
        code=code if isinstance(code, str) else None,
    )
