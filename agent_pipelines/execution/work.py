"""One execution on its way through the stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Final
from agent_pipelines.core.execution import CheckResult, RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.checks import Check
from agent_pipelines.ledger.spans import Trace
from agent_pipelines.ledger.stored import StoredExecution
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
    nodes_tried: list[str] = field(default_factory=list[str])
    """Names of the nodes of the attempts of this run, in order."""
    interrupted: Operation[None] | None = None
    """Records the attempt that was running when the work was cancelled."""
    _place: Place | None = None

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
        return max(0.0, self.spec.timeout.total - (now - max(self.started_at, self.begins_at)) / 1_000_000)
