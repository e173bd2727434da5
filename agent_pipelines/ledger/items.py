"""Executions of a batch's items, as many of them are written at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation

Error = tuple[ErrorClass, Stage, str]


@dataclass(frozen=True)
class ItemsOf:
    """What the items of a shard have in common: the batch, what it asks, and the run that works on them."""

    batch_id: str
    shard: int
    base: Invocation
    run: RunRef


@dataclass(frozen=True, slots=True)
class BegunItem:
    """An item whose attempt begins. `invocation` is the composed one as it is recorded, without secrets.

    One that is not `asked` gets no attempt: it ends in the same transaction, for a reason that lies with us.
    """

    id: str
    item: str
    position: int
    idempotency_key: str
    trace_id: str
    invocation: Mapping[str, JsonValue]
    trimmed: Sequence[str]
    attempt: int
    agent: str
    node: str
    at: Microseconds
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class BegunAttempt:
    """A further attempt of an item that begins."""

    id: str
    attempt: int
    agent: str
    node: str
    at: Microseconds
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """How an attempt ended; `retry_delay` is in seconds, `runtime_tries` how often the runtime itself has tried meanwhile."""

    id: str
    attempt: int
    status: Literal["succeeded", "failed", "cancelled"]
    at: Microseconds
    usage: Usage
    model: str | None
    handle: str | None
    error: Error | None = None
    error_status: int | None = None
    retry_decision: str | None = None
    retry_delay: float | None = None
    runtime_tries: int | None = None


@dataclass(frozen=True, slots=True)
class EndedItem:
    """How an item ended. `spent` is what all its attempts have used; text, output and checks are without secrets."""

    id: str
    status: Status
    at: Microseconds
    spent: Usage
    model: str | None = None
    text: str | None = None
    output: JsonValue = None
    checks: Sequence[Mapping[str, Any]] = ()
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the execution of an item stands, as a run finds it."""

    id: str
    position: int
    status: Status
    attempts: int
    finished_at: Microseconds | None
    trace_id: str | None
