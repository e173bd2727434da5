"""What a request may ask: the parameters of its address and its body, as models."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema, model_validator

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import Microseconds, isoformat, to_microseconds
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.rate import Rate
from agent_pipelines.governance.human_tasks import Subject
from agent_pipelines.registry.registered import TaskState


def _instant(value: object) -> Microseconds:
    if not isinstance(value, str):
        raise ValueError("write an instant as ISO 8601, as in 2026-01-31T06:00:00Z")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is no instant; write ISO 8601, as in 2026-01-31T06:00:00Z") from None
    return to_microseconds(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


Instant = Annotated[
    Microseconds,
    BeforeValidator(_instant),
    PlainSerializer(isoformat),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant, ISO 8601; UTC if it has no offset."""


class Query(BaseModel):
    """Parameters of an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = Field(default="default", description="Workspace that is meant.")


class Page(Query):
    """Parameters of a list that comes in pages."""

    limit: int = Field(default=50, ge=1, le=1_000, description="Entries of a page.")


class TaskPage(Page):
    """Which registered tasks."""

    application: str | None = Field(default=None, description="Only this application.")
    agent: str | None = Field(default=None, description="Only tasks on this agent.")
    state: TaskState | None = Field(default=None, description="Only tasks in this state; without it all but removed ones.")
    text: str | None = Field(default=None, description="Only tasks with these letters in their path.")
    after: str | None = Field(default=None, description="`next_after` of the page before.")


class VersionPage(Page):
    """Which versions of a task."""

    before: int | None = Field(default=None, description="`next_before` of the page before.")


class OfTask(Page):
    """What belongs to a task."""

    application: str | None = Field(default=None, description="Only this application.")
    task: str | None = Field(default=None, description="Only this task: its name, or application/task.")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: dict[str, Any]) -> dict[str, Any]:
        application, slash, name = str(values.get("task", "")).partition("/")
        return {**values, "application": application, "task": name} if slash else values


class TickPage(OfTask):
    """Which ticks."""

    trigger: str | None = Field(default=None, description="Only triggers of this name.")
    since: Instant | None = Field(default=None, description="Only ticks due from this instant on.")
    until: Instant | None = Field(default=None, description="Only ticks due before this instant.")
    before: int | None = Field(default=None, description="`next_before` of the page before.")


class ExecutionPage(OfTask):
    """Which executions."""

    status: Status | None = Field(default=None, description="Only executions in this state.")
    origin: Origin | None = Field(default=None, description="Only executions that this asked for.")
    run_id: str | None = Field(default=None, description="Only executions of this Dagster run.")
    since: Instant | None = Field(default=None, description="Only executions begun from this instant on.")
    until: Instant | None = Field(default=None, description="Only executions begun before this instant.")
    text: str | None = Field(default=None, description="Only those whose answer, error or task holds all these words.")
    before: int | None = Field(default=None, description="`next_before` of the page before.")


class LimitValues(BaseModel):
    """What may happen in a scope."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int | None = Field(default=None, ge=1, description="Executions at once, over all processes.", examples=[5])
    requests: Rate | None = Field(default=None, description="Requests in each period.", examples=["10/s"])
    requests_burst: int | None = Field(default=None, ge=1, description="Requests at once after a rest, above the rate.")
    tokens: Rate | None = Field(default=None, description="Tokens in each period.", examples=["100000/m"])
    tokens_burst: int | None = Field(default=None, ge=1, description="Tokens at once after a rest, above the rate.")


class HumanTaskPage(OfTask):
    """Which human tasks."""

    subject: Subject | None = Field(default=None, description="Only those about this.")
    state: Literal["open", "answered", "all"] = Field(default="open", description="Only those in this state.")
    before: int | None = Field(default=None, description="`next_before` of the page before.")


class Decision(BaseModel):
    """The answer to a human task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str = Field(min_length=1, description="The answer, one of the options if there are some.", examples=["approve"])
    data: JsonValue = Field(default=None, description="What the answer brings with it, as in an edited text.")
    comment: str | None = Field(default=None, description="Why, for the record.")


class CallbackQuery(Query):
    """What a callback shows in its address, where it cannot send a header."""

    token: str | None = Field(default=None, description="The token of the wait.")


class BatchPage(OfTask):
    """Which batches."""

    status: BatchStatus | None = Field(default=None, description="Only batches in this state.")
    before: int | None = Field(default=None, description="`next_before` of the page before.")


class ItemPage(Page):
    """Which items of a batch."""

    status: Status | None = Field(default=None, description="Only items in this state.")
    after: int = Field(default=-1, ge=-1, description="`next_after` of the page before.")


class Nothing(BaseModel):
    """A body that says nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Pause(BaseModel):
    """Why a task is paused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=1, description="Shown until the task is resumed.", examples=["the inbox is being moved"])


class Run(BaseModel):
    """What one execution is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variables: dict[str, JsonValue] = Field(default_factory=dict, description="Prompt variables, over those of the task.")
    logical_at: Instant | None = Field(default=None, description="Instant that the work is about; now by default.")


class Event(BaseModel):
    """Something that has happened outside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(min_length=1, description="Type of the event.", examples=["commit.pushed"])
    data: dict[str, JsonValue] = Field(default_factory=dict, description="Its payload.", examples=[{"branch": "main"}])
    source: str = Field(default="api", min_length=1, description="Who sends it.")
    key: str | None = Field(
        default=None, description="The sender's own name of the event: the same key from the same source is the same event."
    )


class AgentPage(Query):
    """Which work of an agent."""

    node: str | None = Field(default=None, description="Only this node.")
    limit: int = Field(default=50, ge=1, le=1_000, description="Entries of each list.")


class NodePage(Query):
    """Which nodes."""

    agent: str | None = Field(default=None, description="Only nodes of this agent.")
    after: str | None = Field(default=None, description="`next_after` of the page before.", examples=["writer/berlin-1"])
    limit: int = Field(default=50, ge=1, le=1_000, description="Entries of a page.")


class NodeGiven(BaseModel):
    """A node that is to be known before its worker is there, or that is changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capacity: int | None = Field(default=None, ge=1, description="Requests at once.")
    labels: dict[str, str] | None = Field(default=None, description="What tasks may ask for.")


class _Worker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: str = Field(min_length=1, max_length=100, description="Id of the worker that speaks for the node; new at each start.")


class NodeHere(_Worker):
    """A worker says that it is there for a node."""

    capacity: int | None = Field(default=None, ge=1, description="Requests at once.")
    labels: dict[str, str] = Field(default_factory=dict, description="What tasks may ask for.")
    runtime: str | None = Field(default=None, description="Kind of runtime that it works with.")


class NodeBeat(_Worker):
    """A worker says that it lives."""

    held: tuple[str, ...] = Field(default=(), max_length=1_000, description="Orders that it works on.")


class NodePull(NodeBeat):
    """A worker asks for work."""

    limit: int = Field(default=1, ge=1, le=100, description="Orders at most.")
    wait: float = Field(default=20, ge=0, le=30, description="Seconds to wait until there is one.")


class NodeLeaves(_Worker):
    """A worker says that it ends."""


class OrderEvent(BaseModel):
    """One event of an order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1, description="Its number, from 1 without gaps.")
    event: dict[str, JsonValue] = Field(description="The event as the runtime gave it.")


class OrderReport(_Worker):
    """A worker sends events of an order."""

    fence: int = Field(ge=1, description="The fence of the order.")
    events: tuple[OrderEvent, ...] = Field(max_length=1_000, description="Events; those that are known already do no harm.")


class OrderEnd(_Worker):
    """A worker says that an order has ended."""

    fence: int = Field(ge=1, description="The fence of the order.")
    last_seq: int = Field(ge=0, description="Number of its last event.")
    failure: dict[str, JsonValue] | None = Field(default=None, description="Why it failed, if it did.")
