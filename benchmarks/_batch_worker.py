"""A process of a benchmark of batches. It says that it is ready, does its part on a line of input, and says what that took.

python benchmarks/_batch_worker.py split URL DIRECTORY SPEC
python benchmarks/_batch_worker.py work URL DIRECTORY SPEC BATCH NODES SHARDS
python benchmarks/_batch_worker.py bare NODE ITEMS IN_FLIGHT
"""

import asyncio
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.event import UsageReport
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Message, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.shard import ShardWorker
from agent_pipelines.execution.batch.splitter import Splitter
from agent_pipelines.execution.pricing import price
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.openai import OpenAIConfig, OpenAIRuntime
from agent_pipelines.store.database import Database


def nouns_of(url: str, directory: str) -> BatchNouns:
    return replace(Hub(Database(url)).batch_nouns, directory=Path(directory))


def agent_of(nodes: str) -> Agent:
    ports = nodes.split(",")
    runtimes = [OpenAIRuntime(OpenAIConfig(base_url=f"http://127.0.0.1:{port}/v1", model="stub")) for port in ports]
    return Agent("stub", [Node(f"n{number}", runtime) for number, runtime in enumerate(runtimes)])


async def split(url: str, directory: str, spec: str) -> dict[str, Any]:
    nouns, task = nouns_of(url, directory), TaskSpec.model_validate_json(spec)
    now = nouns.clock.now()
    invocation = Invocation(
        task=task.name,
        spec_hash="",
        trigger="on_demand",
        origin=Origin.ON_DEMAND,
        occurrence=new_id(),
        due_at=now,
        logical_at=now,
    )
    ready()
    done = await Splitter(nouns).split(invocation, task, [], run=RunRef(run_id=new_id()))
    assert done.batch is not None, done.execution.error_message
    return {"batch": done.batch.id, "items": done.batch.item_count, "shards": done.batch.shard_count}


async def work(url: str, directory: str, spec: str, batch: str, nodes: str, shards: str) -> dict[str, Any]:
    nouns, agent = nouns_of(url, directory), agent_of(nodes)
    worker = ShardWorker(nouns, RunRef(run_id=new_id(), job="batch"), TaskSpec.model_validate_json(spec), agent)
    with nouns.database.reading():
        pass
    await ask_once(agent)
    ready()
    done = failed = 0
    for number in shards.split(","):
        outcome = await worker.work(batch, int(number))
        assert outcome.shard is not None
        done, failed = done + outcome.shard.done, failed + outcome.shard.failed
    await agent.close()
    return {"done": done, "failed": failed}


async def bare(node: str, items: str, in_flight: str) -> dict[str, Any]:
    slots, url, left = asyncio.Semaphore(int(in_flight)), f"http://127.0.0.1:{node}/v1/chat/completions", int(items)

    async def ask(number: int) -> None:
        async with slots, session.post(url, json={"model": "stub", "messages": [message(number)]}) as answer:
            assert (await answer.json())["choices"]

    def message(number: int) -> dict[str, str]:
        return {"role": "user", "content": f"Summarise invoice {number}"}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await ask(-1)
        ready()
        await asyncio.gather(*(ask(number) for number in range(left)))
    return {"done": left, "failed": 0}


async def ask_once(agent: Agent) -> None:
    """Have everything imported and connected that a process that has worked before has."""
    now = SystemClock().now()
    messages = (Message(role="user", content="Are you there?"),)
    asked = Invocation(
        task="any",
        spec_hash="",
        trigger="any",
        origin=Origin.ON_DEMAND,
        occurrence="",
        due_at=now,
        logical_at=now,
        messages=messages,
    )
    for node in agent.nodes:
        async for event in node.runtime.stream(asked):
            if isinstance(event, UsageReport):
                price(event.usage, event.model)


def ready() -> None:
    """Say so, and wait for the line that starts the part that is measured."""
    print("ready", flush=True)
    sys.stdin.readline()
    begun[:] = [time.perf_counter(), time.process_time()]


begun: list[float] = []


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    result = asyncio.run({"split": split, "work": work, "bare": bare}[mode](*arguments))
    took = {"wall": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / 1e6
    print(json.dumps({**result, **took, "megabytes": peak}), flush=True)
