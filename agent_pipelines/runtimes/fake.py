"""A runtime without an agent, for tests and rehearsals."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds, SystemClock
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Handle, Usage, UsageReport
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Finished, Progress, Runtime, RuntimeConfig, StillRunning
from agent_pipelines.runtimes.python_result import PythonResult


class FakeConfig(RuntimeConfig):
    """Settings of a fake agent."""

    replies: tuple[JsonValue, ...] = Field(
        default=(),
        description="Text or JSON for each attempt, the last for all further ones. Without any it repeats the last message.",
        examples=[["All is well.", {"total": 3}]],
    )
    fail_times: int = Field(default=0, ge=0, description="Number of attempts that fail before the first reply.")
    error_class: ErrorClass = Field(default=ErrorClass.SERVER, description="Class of these failures.")
    works_for: Duration | None = Field(
        default=None, description="How long it works on by itself after it was asked, while nobody holds it.", examples=["24h"]
    )
    usage: Usage | None = Field(default=None, description="What each attempt reports to have spent.")


_KEPT = 1_000  # invocations that a fake remembers


@dataclass(frozen=True)
class Pause:
    """A wait within an attempt, by the clock of the fake; of None it never ends."""

    seconds: float | None = None


Step = str | dict[str, JsonValue] | AgentEvent | RuntimeFailure | Pause
"""Text and JSON objects are the answer, events and pauses happen, a failure is raised."""


class FakeRuntime(Runtime[FakeConfig]):
    """Plays a script: a step or a list of steps for each attempt, the last for all further ones.

    Attempts are counted for each invocation by itself, so that executions can share it. Keeps the last `invocations` that it was
    given, in order.
    """

    kind = "fake"
    config_type = FakeConfig
    capabilities = Capabilities(streams=True, reports_usage=True, cancels=True, structured_output=True)

    def __init__(
        self, config: FakeConfig | None = None, *, script: Sequence[Step | Sequence[Step]] = (), clock: Clock | None = None
    ) -> None:
        super().__init__(config or FakeConfig())
        if self.config.works_for is not None:
            self.capabilities = self.capabilities.model_copy(update={"hands_over": True})
        self.invocations: list[Invocation] = []
        self.polls: list[Sequence[str]] = []
        self.cancelled: list[str] = []
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._script = [part if isinstance(part, list | tuple) else [part] for part in script]
        self._script += [[reply] for reply in self.config.replies]
        self._clock = clock or SystemClock()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Play the next part of the script."""
        attempt = self._count(invocation) - self.config.fail_times
        if self.config.usage is not None:
            yield UsageReport(usage=self.config.usage)
        if attempt < 0:
            raise RuntimeFailure(self.config.error_class, "scripted failure")
        told = invocation.messages[-1].content if invocation.messages else ""
        if self.config.works_for is not None:
            # All that another process needs to know of it: this one may be gone by then.
            until = self._clock.now() + round(self.config.works_for * 1_000_000)
            yield Handle(id=json.dumps([until, attempt, told]), poll_after=min(1.0, self.config.works_for))
            return
        result = PythonResult()
        for step in self._script[min(attempt, len(self._script) - 1)] if self._script else [told]:
            if isinstance(step, RuntimeFailure):
                raise step
            if isinstance(step, Pause):
                await (asyncio.Event().wait() if step.seconds is None else self._clock.sleep(step.seconds))
            else:
                for event in result.take_returned(step):
                    yield event
        for event in result.finish():
            yield event

    async def poll(self, handles: Sequence[str]) -> Mapping[str, Progress]:
        """Work has ended when its time is over; its part of the script is what it gives back."""
        self.polls.append(handles)
        return {handle: self._progress(*json.loads(handle)) for handle in handles}

    async def cancel(self, handle: str) -> None:
        """Remember that the work was cancelled."""
        self.cancelled.append(handle)

    def _progress(self, until: Microseconds, attempt: int, told: str) -> Progress:
        if self._clock.now() < until:
            return StillRunning()
        result = PythonResult()
        events: list[AgentEvent] = []
        for step in self._script[min(attempt, len(self._script) - 1)] if self._script else [told]:
            if isinstance(step, RuntimeFailure):
                return step
            if not isinstance(step, Pause):
                events += result.take_returned(step)
        return Finished([*events, *result.finish()])

    def _count(self, invocation: Invocation) -> int:
        """How often the invocation was tried before."""
        self.invocations.append(invocation)
        del self.invocations[:-_KEPT]
        before = self._attempts.pop(invocation.idempotency_key, 0)
        self._attempts[invocation.idempotency_key] = before + 1
        if len(self._attempts) > _KEPT:
            self._attempts.popitem(last=False)
        return before
