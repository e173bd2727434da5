"""One execution on its way through the stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.event import Final, Question, Usage
from agent_pipelines.core.execution import CheckResult, RunRef
from agent_pipelines.core.invocation import Callback, Invocation
from agent_pipelines.core.task import FallbackSpec, TaskSpec
from agent_pipelines.execution.checks import Check
from agent_pipelines.execution.permit import Permit
from agent_pipelines.ledger.spans import Trace
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.ledger.waits import StoredWait
from agent_pipelines.runtimes.fleet import Agent, Place
from agent_pipelines.store.database import Operation


@dataclass(frozen=True)
class Failure:
    """Why an attempt or a whole execution failed, as it is recorded. `retry_after` is in seconds, `tries` the runtime's own."""

    error_class: ErrorClass
    stage: Stage
    message: str
    status: int | None = None
    retry_after: float | None = None
    tries: int = 1
    checks: tuple[CheckResult, ...] = ()
    may_repeat: bool = False
    """Whether it is known by now that asking the agent again does no harm."""

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
    human_task_id: str | None = None
    """The question that is asked already; with its answer the agent is asked again."""


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
    others: Mapping[str, Agent] = field(default_factory=dict[str, Agent])
    """The agents of the task's fallbacks by their names."""
    fallbacks: int = 0
    """How many of the task's fallbacks have been gone past; the last of them is who is asked now."""
    parameters: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Those of the fallback, over those of the task."""
    tries_before: int = 0
    """Of this run, with those who were asked before the present fallback."""
    inner_tries: int = 0
    """Tries that the runtime has made by itself beyond these, since the present one is asked."""
    cache_key: str | None = None
    cached_from: str | None = None
    """The execution whose result is used again, if there is one."""
    only_node: str | None = None
    """The one node that is meant, if it is not any of the agent's."""
    nodes_tried: list[str] = field(default_factory=list[str])
    """Names of the nodes of the attempts of this run, in order."""
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

    @property
    def fallback_from(self) -> str | None:
        """The agent of the task while a fallback is asked; None before."""
        return self.spec.agent if self.fallbacks else None

    def following(self, error_class: ErrorClass) -> int | None:
        """The place of the next fallback that is for an error, counted from 1; None if there is none."""
        left = enumerate(self.spec.fallback[self.fallbacks :], start=self.fallbacks + 1)
        return next((place for place, each in left if error_class in each.errors), None)

    def go_on(self, arrived: StoredWait) -> None:
        """Have the attempt go on that has waited, at the fallback where it was begun."""
        self.arrived, self.tries, self.has_wait = arrived, arrived.tries, True
        names = [each.agent for each in self.spec.fallback]
        if arrived.agent == self.spec.agent or arrived.agent not in names:
            return
        place = names.index(arrived.agent) + 1
        self.agent = self.others.get(arrived.agent, self.agent)
        self.fallbacks, self.parameters = place, self.spec.fallback[place - 1].parameters
        self.tries_before = arrived.tries - 1

    def move_on(self, place: int) -> FallbackSpec:
        """Have a fallback asked from now on."""
        chosen = self.spec.fallback[place - 1]
        if chosen.agent is not None:
            self.agent = self.others.get(chosen.agent, self.agent)
            self.nodes_tried.clear()
        self.fallbacks = place
        self.parameters = {**self.parameters, **chosen.parameters}
        self.tries_before, self.inner_tries = self.tries, 0
        self.tries += 1
        # It is what another agent has left.
        self.invocation = self.invocation.model_copy(update={"checkpoint": None})
        return chosen

    def remaining(self, now: Microseconds) -> float:
        """What is left until the deadline, in seconds; a wait for permits moves it."""
        assert self.invocation.deadline_at is not None
        return max(0.0, (self.invocation.deadline_at - now) / 1_000_000)
