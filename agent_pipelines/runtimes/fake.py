"""A runtime without an agent, for tests and rehearsals."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from pydantic import Field, JsonValue

from agent_pipelines.core.clock import Clock, SystemClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Usage, UsageReport
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
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
        self.invocations: list[Invocation] = []
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
        echo = [invocation.messages[-1].content if invocation.messages else ""]
        result = PythonResult()
        for step in self._script[min(attempt, len(self._script) - 1)] if self._script else echo:
            if isinstance(step, RuntimeFailure):
                raise step
            if isinstance(step, Pause):
                await (asyncio.Event().wait() if step.seconds is None else self._clock.sleep(step.seconds))
            else:
                for event in result.take_returned(step):
                    yield event
        for event in result.finish():
            yield event

    def _count(self, invocation: Invocation) -> int:
        """How often the invocation was tried before."""
        self.invocations.append(invocation)
        del self.invocations[:-_KEPT]
        before = self._attempts.pop(invocation.idempotency_key, 0)
        self._attempts[invocation.idempotency_key] = before + 1
        if len(self._attempts) > _KEPT:
            self._attempts.popitem(last=False)
        return before
