"""A record that is filled as the product fills it: through the runner, with agents that follow a script."""

from collections.abc import Sequence
from typing import Any

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import Final, Reasoning, Text, ToolCall, ToolResult, Usage, UsageReport
from agent_pipelines.core.execution import ExecutionResult, RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fake import FakeRuntime, Pause
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database

SECRET = "sk-verysecretkey0123456789"
HOUR = 3_600_000_000

PRICED = UsageReport(usage=Usage(input_tokens=1_000, output_tokens=200, requests=1), model="gpt-4o-mini")
UNPRICED = UsageReport(usage=Usage(input_tokens=50, output_tokens=5, requests=1), model="a-model-without-a-price")

DIGEST = TaskSpec.model_validate(
    {
        "name": "digest",
        "application": "reports",
        "intent": "Sum up the day",
        "agent": "writer",
        "prompt": "Sum up {{ logical_time }}",
        "system": "You write digests.",
        "session": {"mode": "task"},
        "triggers": [{"kind": "cron", "cron": "0 6 * * *"}, {"kind": "event", "event": "day.closed"}],
        "retry": {"delay": 1, "jitter": 0},
    }
)
CHECKER = TaskSpec.model_validate(
    {
        "name": "checker",
        "application": "quality",
        "intent": "Check the data",
        "agent": "inspector",
        "prompt": "Check it",
        "output": {"format": "json"},
        "remember": ["baseline"],
        "retry": {"max_attempts": 1},
    }
)


class Filled:
    """A deployment's record on a clock of its own."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.clock = clock
        self.hub = Hub(database, clock)

    def execute(
        self,
        spec: TaskSpec,
        *script: Any,
        trigger: str = "cron",
        origin: Origin = Origin.SCHEDULE,
        run_id: str | None = None,
        gate: Any = None,
        seconds: float = 2.0,
        **invocation: Any,
    ) -> ExecutionResult:
        """Execute a task that was due half a second ago and takes some seconds; an hour goes by afterwards."""
        due_at = self.clock.now() - 500_000
        runtime = FakeRuntime(script=[_paced(part, seconds) for part in script], clock=self.clock)
        result = self.hub.runner.execute(
            Invocation(
                application=spec.application,
                task=spec.name,
                spec_hash=spec.spec_hash,
                trigger=trigger,
                origin=origin,
                occurrence=new_id(),
                due_at=due_at,
                logical_at=due_at,
                **invocation,
            ),
            spec,
            Agent(spec.agent, [Node("one", runtime)]),
            run=RunRef(run_id=run_id or new_id(), job=f"{spec.application}__{spec.name}", step="step"),
            gate=gate,
        )
        self.clock.time += HOUR
        return result

    def everything(self) -> list[ExecutionResult]:
        """One execution of each kind, in this order: plain, with tools, retried, JSON, failed, skipped."""
        tools = [
            Reasoning(text="I should look it up.\nThen answer."),
            ToolCall(id="1", name="lookup", arguments={"day": "2026-01-01"}),
            ToolResult(id="1", name="lookup", output={"rows": 3}),
            PRICED,
            Text(text=f"Three rows. The key is {SECRET}."),
        ]
        busy = RuntimeFailure(ErrorClass.OVERLOADED, "busy", status=529)
        return [
            self.execute(DIGEST, [PRICED, "A calm day."]),
            self.execute(DIGEST, tools, origin=Origin.EVENT, trigger="event", seconds=5.0),
            self.execute(DIGEST, busy, [UNPRICED, "Better late."], origin=Origin.ON_DEMAND, trigger="on_demand", actor="cli:kim"),
            self.execute(CHECKER, {"baseline": 7, "problems": []}),
            self.execute(CHECKER, RuntimeFailure(ErrorClass.AUTHENTICATION, f"the key {SECRET} is wrong", status=401)),
            self.execute(CHECKER, {"baseline": 8}, gate=lambda _: "nothing has changed"),
        ]


def _paced(part: Any, seconds: float) -> Sequence[Any]:
    return [Pause(seconds), *(part if isinstance(part, list) else [part])]


__all__ = ["CHECKER", "DIGEST", "HOUR", "PRICED", "SECRET", "UNPRICED", "Filled", "Final"]
