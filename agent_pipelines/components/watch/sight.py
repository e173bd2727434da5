"""What one look at a trigger finds."""

from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance
from pydantic import JsonValue

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.tick import Tick
from agent_pipelines.hub import Hub


@dataclass(frozen=True)
class Look:
    """The circumstances of one look at a trigger of a task; `limit` is how many ticks may be claimed."""

    hub: Hub
    instance: DagsterInstance
    task: TaskKey
    now: Microseconds
    limit: int


def task_at(path: str, of: TaskKey) -> TaskKey:
    """The key of the task that another one names: a bare name means its application, and any path its workspace."""
    workspace, own, _ = of
    application, _, name = path.rpartition("/")
    return (workspace, application or own, name)


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
    """A failed upstream that is to run once more, for one of its ticks."""

    tick: Tick
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
class Waiting:
    """Something that is not due yet, in words.

    It is worth another look at `until`, or when one of the ticks and executions whose ids are in `on` changes.
    """

    words: str
    until: Microseconds
    on: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sight:
    """What was found, why the rest waits, and how far the trigger has looked now; `more` if the limit left something behind."""

    cursor: TriggerCursor
    due: list[Due] = field(default_factory=list[Due])
    repairs: list[Repair] = field(default_factory=list[Repair])
    repaired: list[Repaired] = field(default_factory=list[Repaired])
    waiting: list[Waiting] = field(default_factory=list[Waiting])
    more: bool = False


def marked(cursor: TriggerCursor, **marks: Any) -> TriggerCursor:
    """The cursor with other positions."""
    return cursor.model_copy(update={"marks": marks})
