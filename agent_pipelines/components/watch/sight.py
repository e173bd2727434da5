"""What one look at a trigger finds."""

from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance
from pydantic import JsonValue

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey, TaskSpec
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.ticks import Tick
from agent_pipelines.hub import Hub


@dataclass(frozen=True)
class Look:
    """The circumstances of one evaluation of a task's sensor; `limit` is how many ticks it may claim."""

    hub: Hub
    instance: DagsterInstance
    spec: TaskSpec
    now: Microseconds
    limit: int


@dataclass(frozen=True)
class Due:
    """An occurrence that is due: it becomes a tick and, unless it has a verdict already, a run."""

    origin: Origin
    occurrence: str
    due_at: Microseconds
    logical_at: Microseconds
    inputs: dict[str, JsonValue]
    event: dict[str, JsonValue] | None = None
    verdict: Verdict | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Repair:
    """A failed upstream that is to run once more."""

    task: TaskKey
    occurrence: str
    launch: Launch
    inputs: dict[str, JsonValue]


@dataclass(frozen=True)
class Repaired:
    """A repair that has begun: its tick gets its verdict."""

    tick: Tick
    run_id: str
    execution_id: str


@dataclass(frozen=True)
class Sight:
    """What was found, why the rest waits, and how far the trigger has looked now."""

    cursor: TriggerCursor
    due: list[Due] = field(default_factory=list[Due])
    repairs: list[Repair] = field(default_factory=list[Repair])
    repaired: list[Repaired] = field(default_factory=list[Repaired])
    waiting: list[str] = field(default_factory=list[str])


def marked(cursor: TriggerCursor, **marks: Any) -> TriggerCursor:
    """The cursor with other positions."""
    return cursor.model_copy(update={"marks": marks})
