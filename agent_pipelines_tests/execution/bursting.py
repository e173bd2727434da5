"""Ticks of lane `burst`, and bursts that work on them in this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.tick import Tick
from agent_pipelines.execution.burst import BurstWorker, Ended
from agent_pipelines.execution.intake import Declarations
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node

SETTINGS = BurstSettings.model_validate({"runs": 1, "in_flight": 20, "idle": 0, "age": 600, "ahead": 0})


class Counting(Runtime[RuntimeConfig]):
    """Answers after a moment, or does what the name of the task says; counts how many it works on at once."""

    kind = "counting"
    config_type = RuntimeConfig
    capabilities = Capabilities(cancels=True)

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__(RuntimeConfig())
        self.seconds = seconds
        self.at_once = 0
        self.most = 0
        self.asked: list[Invocation] = []
        self.closed = 0

    @property
    def tasks(self) -> list[str]:
        return [invocation.task for invocation in self.asked]

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        self.asked.append(invocation)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if invocation.task.startswith("hang"):
                await asyncio.Event().wait()
            await asyncio.sleep(self.seconds)
            if invocation.task.startswith("raise"):
                raise RuntimeError("the adapter is broken")
            yield Final(text="bad" if invocation.task.startswith("bad") else "done")
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed += 1


def spec(name: str = "job", **changes: Any) -> TaskSpec:
    values = {"name": name, "application": "app", "intent": "Work", "agent": "worker", "retry": {"max_attempts": 1}, **changes}
    return TaskSpec.model_validate(values)


def register(hub: Hub, *specs: TaskSpec, due_at: int | None = None, **more: Any) -> list[Tick]:
    """Keep the specifications and claim a tick of each, as for registered tasks."""
    ticks: list[Tick] = []
    with hub.database.transaction() as connection:
        for each in specs:
            hub.ledger.specs.put(connection, each)
            ticks.append(claim(hub, connection, each, due_at, spec_hash=each.spec_hash, **more))
    return ticks


def claim(hub: Hub, connection: Any, task: TaskSpec, due_at: int | None = None, **more: Any) -> Tick:
    due_at = hub.clock.now() if due_at is None else due_at
    values: dict[str, Any] = {"origin": Origin.SCHEDULE, "lane": "burst", "priority": task.priority, **more}
    tick, _ = hub.ticks.claim(connection, task.key, "each", values.pop("occurrence", str(due_at)), due_at=due_at, **values)
    return tick


def worker(
    hub: Hub,
    *runtimes: Runtime[Any],
    settings: BurstSettings = SETTINGS,
    declared: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    tell: Callable[[Ended], None] = lambda ended: None,
) -> BurstWorker:
    agents = {"worker": lambda: Agent("worker", [Node(f"n{number}", each) for number, each in enumerate(runtimes)])}
    declarations = Declarations(**{"agents": agents, **(declared or {})})
    return BurstWorker(hub.burst_nouns, RunRef(run_id=run_id or new_id(), job="burst"), "default", settings, declarations, tell)


def executions(hub: Hub) -> list[StoredExecution]:
    """All executions, oldest first."""
    with hub.database.reading() as connection:
        return list(hub.executions.list(connection, limit=10_000))[::-1]


def verdicts(hub: Hub) -> Counter[str]:
    """How many ticks ended how."""
    with hub.database.reading() as connection:
        return Counter(str(tick.verdict) for tick in hub.ticks.list(connection, limit=10_000))
