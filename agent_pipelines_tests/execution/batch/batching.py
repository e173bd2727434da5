"""Batches over small files, worked on in this process."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_pipelines.core.event import AgentEvent, Final, Usage, UsageReport
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.merge import Merger
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.shard import ShardOutcome, ShardWorker
from agent_pipelines.execution.batch.splitter import Split, Splitter
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batch_results import ItemResult
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines_tests.execution.conftest import invocation
from agent_pipelines_tests.execution.conftest import spec as task


class Echo(Runtime[RuntimeConfig]):
    """Answers with what it is asked, or does what that begins with; counts how many it works on at once."""

    kind = "echo"
    config_type = RuntimeConfig
    capabilities = Capabilities(cancels=True)

    def __init__(self) -> None:
        super().__init__(RuntimeConfig())
        self.asked: list[str] = []
        self.at_once = 0
        self.most = 0
        self.bad: set[str] = set()
        self.hanging = asyncio.Event()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        assert invocation.item is not None
        self.asked.append(invocation.item)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            text = invocation.messages[-1].content
            if text.startswith("hang"):
                self.hanging.set()
                await asyncio.Event().wait()
            if invocation.item in self.bad or text.startswith("bad"):
                raise RuntimeError("the adapter is broken")
            yield UsageReport(usage=Usage(input_tokens=3, output_tokens=1, requests=1, cost_usd=0.5))
            yield Final(text=text)
        finally:
            self.at_once -= 1


def spec(batch: dict[str, Any] | None = None, **changes: Any) -> TaskSpec:
    values = {"items": {"file": "items.jsonl"}, "key": "id", "shard_size": 10, "in_flight": 4, **(batch or {})}
    given = {"prompt": "{{ item.text }}", "retry": {"max_attempts": 2, "errors": ["internal"], "resumes": 2}, **changes}
    return task(batch=values, **given)


def write(directory: Path, texts: Iterable[str], name: str = "items.jsonl") -> None:
    lines = (json.dumps({"id": f"i{number}", "text": text}) + "\n" for number, text in enumerate(texts))
    (directory / name).write_text("".join(lines), encoding="utf-8")


def agent(*runtimes: Runtime[RuntimeConfig], name: str = "worker") -> Agent:
    return Agent(name, [Node(f"n{number}", each) for number, each in enumerate(runtimes, start=1)])


class Batching:
    """The three stages over one hub and directory."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.nouns: BatchNouns = replace(hub.batch_nouns, directory=directory)
        self.directory = directory
        self.echo = Echo()

    def split(self, spec: TaskSpec, *agents: Agent, **given: Any) -> Split:
        request = given.pop("invocation", None) or invocation(origin=Origin.ON_DEMAND)
        run = given.pop("run", None) or RunRef(run_id=new_id())
        return asyncio.run(Splitter(self.nouns).split(request, spec, agents or [agent(self.echo)], run=run, **given))

    def worker(self, spec: TaskSpec, run: RunRef | None = None, **given: Any) -> ShardWorker:
        return ShardWorker(
            self.nouns, run or RunRef(run_id=new_id()), spec, given.pop("agent", None) or agent(self.echo), **given
        )

    def work(self, spec: TaskSpec, batch_id: str, number: int = 0, run: RunRef | None = None, **given: Any) -> ShardOutcome:
        return asyncio.run(self.worker(spec, run, **given).work(batch_id, number))

    def work_all(self, spec: TaskSpec, split: Split, **given: Any) -> None:
        assert split.batch is not None
        for number in range(split.batch.shard_count):
            self.work(spec, split.batch.id, number, **given)

    def merge(self, spec: TaskSpec, batch_id: str) -> Any:
        return asyncio.run(Merger(self.nouns).merge(batch_id, spec, run=RunRef(run_id=new_id())))

    def results(self, batch_id: str) -> list[ItemResult]:
        return list(Merger(self.nouns).results(batch_id))

    def statuses(self, batch_id: str) -> Counter[str]:
        return Counter(str(each.status) for each in self.results(batch_id))

    def progress(self, batch_id: str) -> Any:
        with self.hub.database.reading() as connection:
            return self.hub.ledger.batches.progress(connection, batch_id)
