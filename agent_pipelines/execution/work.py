"""One execution on its way through the stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Final, Question, Usage
from agent_pipelines.core.execution import CheckResult, RunRef
from agent_pipelines.core.invocation import Callback, Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.checks import Check
from agent_pipelines.execution.permit import Permit
from agent_pipelines.ledger.spans import Trace
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.ledger.waits import StoredWait
from agent_pipelines.runtimes.fleet import Agent, Place
from agent_pipelines.store.database import Operation


@dataclass(frozen=True)
class Failure:
    """Why an attempt or a whole execution failed, as it is recorded. `retry_after` is in seconds."""

    error_class: ErrorClass
    stage: Stage
    message: str
    status: int | None = None
    retry_after: float | None = None
    checks: tuple[CheckResult, ...] = ()

    @property
    def error(self) -> tuple[ErrorClass, Stage, str]:
        """The three columns that every record of an error has."""
        return (self.error_class, self.stage, self.message)


@dataclass(frozen=True)
class Success:
    """What an attempt gave back, read and checked."""

    final: Final
    output: JsonValue
    checks: tuple[CheckResult, ...]
    model: str | None


@dataclass(frozen=True)
class Waiting:
    """An attempt that goes on without a process: at the agent by its handle, or with people by a question."""

    question: Question | None = None


@dataclass
class Work:
    """One admitted execution with all that its stages need; `invocation` is filled by composing."""

    spec: TaskSpec
    agent: Agent
    run: RunRef
    checks: Sequence[Check]
    trace: Trace
    stored: StoredExecution
    invocation: Invocation
    started_at: Microseconds
    begins_at: Microseconds = 0
    """When the agent is to be asked at the earliest; limits of time count from then."""
    journal_seq: int = 0
    tries: int = 1
    """Of this run, the one that runs included."""
    interrupted: Operation[None] | None = None
    """Records the attempt that was running when the work was cancelled."""
    permit: Permit | None = None
    """Of the attempt that is made or about to be."""
    usage: Usage | None = None
    """What the last attempt used."""
    queued: Microseconds = 0
    """How long it has waited for permits; that counts for no limit of time."""
    arrived: StoredWait | None = None
    """What the attempt that goes on has waited for."""
    callback: Callback | None = None
    has_wait: bool = False
    _place: Place | None = None

    @property
    def can_wait(self) -> bool:
        """Whether another run can go on with this execution: only with one that is all that its task was asked for."""
        return self.invocation.item is None

    @property
    def attempt(self) -> int:
        """The number of the attempt that runs, among those of all runs."""
        return self.stored.attempts + self.tries

    @property
    def place(self) -> Place:
        """Where the attempt that runs is made; the router chooses it first."""
        assert self._place is not None
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place = place

    def remaining(self, now: Microseconds) -> float:
        """What is left of the total time of the task, in seconds."""
        spent = now - max(self.started_at, self.begins_at) - self.queued
        total = self.spec.timeout.total - spent / 1_000_000
        if self.arrived is not None:  # the time counts from where it began to wait
            total = min(total, (self.arrived.deadline_at - now) / 1_000_000)
        return max(0.0, total)
