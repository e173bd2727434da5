"""One agent's work inside a run, and how it ends."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.invocation import Origin


class Status(StrEnum):
    """Where an execution stands."""

    RUNNING = "running"
    WAITING = "waiting"  # for a person or a remote agent; no process holds it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # the gate said that there is nothing to do


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.SKIPPED})
"""States that an execution ends in; a failed or cancelled one can be resumed by re-executing its run."""

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.RUNNING: frozenset({Status.WAITING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.SKIPPED}),
    Status.WAITING: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.RUNNING}),
    Status.CANCELLED: frozenset({Status.RUNNING}),
    Status.SUCCEEDED: frozenset(),
    Status.SKIPPED: frozenset(),
}
"""The legal changes of state; the database refuses all others."""


class Verdict(StrEnum):
    """What became of a tick; every tick ends in exactly one."""

    RAN = "ran"
    DEDUPLICATED = "deduplicated"
    SKIPPED = "skipped"
    MISSED = "missed"
    LAUNCH_FAILED = "launch_failed"


class Degraded(StrEnum):
    """What took the place of a result that could not be had as it was asked for."""

    STALE = "stale"  # the newest result of before; the execution succeeded with it
    PARTIAL = "partial"  # what the agent had said until it failed; the execution succeeded with it
    HUMAN = "human"  # people are asked; the execution failed
    TASK = "task"  # another task was requested; the execution failed


class RunRef(BaseModel):
    """The Dagster run that an execution is part of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    job: str | None = None
    step: str | None = None
    partition: str | None = None
    parent_run_id: str | None = None
    resumes: bool = False
    """Whether the run re-executes its parent from failure, which resumes the parent's invocations."""
    continues: str | None = None
    """The occurrence of the continuation that the run goes on with, if it is one."""


class CheckResult(BaseModel):
    """What a check found in a result. `score` lies between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    blocking: bool = True
    score: float | None = None
    message: str | None = None


class ExecutionResult(BaseModel):
    """The outcome of one execution as its caller sees it; the ledger holds the whole record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution_id: str
    status: Status
    trigger: str | None = None
    origin: Origin | None = None
    logical_at: Microseconds | None = None
    deduplicated_into: str | None = None
    reason: str | None = None
    text: str = ""
    output: JsonValue = None
    checks: tuple[CheckResult, ...] = ()
    usage: Usage = Usage()
    attempts: int = 0
    duration_seconds: float = 0.0
    agent: str | None = None
    node: str | None = None
    model: str | None = None
    prompt_version: str | None = None
    session_id: str | None = None
    trace_id: str | None = None
    error_class: ErrorClass | None = None
    error_stage: Stage | None = None
    error_message: str | None = None
    trimmed: tuple[str, ...] = ()
    degraded: Degraded | None = None
    stale_from: str | None = None
    cached_from: str | None = None
    fallback_from: str | None = None
    deadline_at: Microseconds | None = None

    def metadata(self) -> dict[str, Any]:
        """The numbers and names of the result as a flat mapping; unknown ones are left out."""
        pairs = {
            "execution_id": self.execution_id,
            "status": str(self.status),
            "trigger": self.trigger,
            "origin": None if self.origin is None else str(self.origin),
            "logical_time": None if self.logical_at is None else isoformat(self.logical_at),
            "attempts": self.attempts,
            "duration_seconds": round(self.duration_seconds, 3),
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "total_tokens": self.usage.total_tokens,
            "cost_usd": self.usage.cost_usd,
            "agent": self.agent,
            "node": self.node,
            "model": self.model,
            "prompt_version": self.prompt_version,
            "session_id": self.session_id,
            "trace_id": self.trace_id,
            "deduplicated_into": self.deduplicated_into,
            "reason": self.reason,
            "degraded": None if self.degraded is None else str(self.degraded),
            "stale_from": self.stale_from,
            "cached_from": self.cached_from,
            "fallback_from": self.fallback_from,
            "deadline": None if self.deadline_at is None else isoformat(self.deadline_at),
        }
        return {name: value for name, value in pairs.items() if value is not None}
