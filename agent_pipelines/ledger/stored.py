"""Executions and attempts as they stand in the record."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import CheckResult, Degraded, ExecutionResult, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.of_task import OfTask


class StoredExecution(OfTask):
    """One execution as it stands in the record."""

    seq: int
    id: str
    spec_hash: str
    idempotency_key: str
    dedupe_key: str | None
    trigger: str
    origin: Origin
    occurrence: str
    item: str | None
    batch_id: str | None
    shard: int | None
    position: int | None
    actor: str
    due_at: Microseconds
    logical_at: Microseconds
    invocation: Invocation
    run_id: str
    job: str | None
    step: str | None
    partition: str | None
    resumptions: int
    status: Status
    created_at: Microseconds
    finished_at: Microseconds | None
    attempts: int
    agent: str | None
    node: str | None
    model: str | None
    prompt_version: str | None
    session_id: str | None
    trace_id: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    cost_usd: float | None
    text: str | None
    output: JsonValue
    checks: tuple[CheckResult, ...] | None
    trimmed: tuple[str, ...] | None
    reason: str | None
    error_class: ErrorClass | None
    error_stage: Stage | None
    error_message: str | None
    degraded: Degraded | None
    stale_from: str | None
    cached_from: str | None
    fallback_from: str | None

    @property
    def usage(self) -> Usage:
        """What all attempts spent together."""
        return Usage(**{name: getattr(self, name) for name in Usage.model_fields})

    @property
    def duration_seconds(self) -> float | None:
        """From admission to the end; None while it runs."""
        return None if self.finished_at is None else max(0, self.finished_at - self.created_at) / 1_000_000

    def result(self) -> ExecutionResult:
        """The outcome as the caller of the runner sees it."""
        return ExecutionResult(
            execution_id=self.id,
            status=self.status,
            trigger=self.trigger,
            origin=self.origin,
            logical_at=self.logical_at,
            reason=self.reason,
            text=self.text or "",
            output=self.output,
            checks=self.checks or (),
            usage=self.usage,
            attempts=self.attempts,
            duration_seconds=self.duration_seconds or 0.0,
            agent=self.agent,
            node=self.node,
            model=self.model,
            prompt_version=self.prompt_version,
            session_id=self.session_id,
            trace_id=self.trace_id,
            error_class=self.error_class,
            error_stage=self.error_stage,
            error_message=self.error_message,
            trimmed=self.trimmed or (),
            degraded=self.degraded,
            stale_from=self.stale_from,
            cached_from=self.cached_from,
            fallback_from=self.fallback_from,
            deadline_at=self.invocation.deadline_at,
        )


class StoredAttempt(BaseModel):
    """One try of an execution as it stands in the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    execution_id: str
    number: int
    run_id: str
    agent: str
    node: str
    model: str | None
    status: Literal["running", "succeeded", "failed", "cancelled", "lost"]
    started_at: Microseconds
    finished_at: Microseconds | None
    error_class: ErrorClass | None
    error_stage: Stage | None
    error_message: str | None
    error_status: int | None
    retry_decision: str | None
    retry_delay_us: int | None
    handle: str | None
    runtime_tries: int | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    cost_usd: float | None

    @property
    def usage(self) -> Usage:
        """What this try spent."""
        return Usage(**{name: getattr(self, name) for name in Usage.model_fields})
