"""What a request may ask: the parameters of its address and its body, as models."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema, model_validator

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import Microseconds, isoformat, to_microseconds
from agent_pipelines.core.execution import Status
from agent_pipelines.core.invocation import Origin
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
