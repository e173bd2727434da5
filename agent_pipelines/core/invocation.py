"""The frozen request of one execution."""

import hashlib
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.event import Checkpoint
from agent_pipelines.core.task import TaskKey, canonical_json


class Origin(StrEnum):
    """What asked for an execution."""

    SCHEDULE = "schedule"  # cron, interval, at
    EVENT = "event"
    ASSET = "asset"  # an upstream asset was updated
    AFTER = "after"  # another task's tick
    ON_DEMAND = "on_demand"  # a person or a program asked
    BACKFILL = "backfill"


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Callback(BaseModel):
    """Where the other side can say that work which was handed over has come to its end, and what it must show for that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_id: str
    path: str
    token: SecretStr


class Invocation(BaseModel):
    """What one execution is asked to do, fixed when it is admitted; the runner fills the last block when it composes.
    `state` is what an earlier execution remembered, `upstream` the outputs of the dependencies by path,
    `upstream_executions` the ids of the executions that they come from. `checkpoint` is the last one that an earlier try of the
    same work has left, from which the agent may go on; the journal keeps it, the record of the invocation does not.

    `occurrence` is the due instant in microseconds, the event's id or the Dagster run's id: with task and trigger it
    identifies the tick. `item` is the key of an item of a batch, `item_value` the item itself. `logical_at` is the instant
    that the work is about, `due_at` the one on the wall.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = "default"
    application: str = "default"
    task: str
    spec_hash: str
    trigger: str
    origin: Origin
    occurrence: str
    due_at: Microseconds
    logical_at: Microseconds
    item: str | None = None
    item_value: JsonValue = None
    variables: dict[str, JsonValue] = {}
    event: dict[str, JsonValue] | None = None
    actor: str = "system"

    state: dict[str, JsonValue] = {}
    upstream: dict[str, JsonValue] = {}
    upstream_executions: dict[str, str] = {}
    prompt_version: str | None = None
    messages: tuple[Message, ...] = ()
    parameters: dict[str, JsonValue] = {}
    session_id: str | None = None
    remote_session_id: str | None = None
    output_schema: dict[str, JsonValue] | None = None
    deadline_at: Microseconds | None = None
    checkpoint: Checkpoint | None = None
    callback: Callback | None = Field(default=None, exclude=True)
    """Known to the runtime only, and never recorded."""

    @property
    def task_key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)

    @property
    def idempotency_key(self) -> str:
        """The same for every try of the same work, on whatever run: SHA-256 in hexadecimal."""
        parts = [self.workspace, self.application, self.task, self.trigger, self.occurrence, self.item]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
