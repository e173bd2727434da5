"""Items of a batch share nodes, limits and the database with other work."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

import pytest

from agent_pipelines.components.batch.opened import closing
from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import ManualClock, SystemClock
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.event import AgentEvent, Checkpoint, Final
from agent_pipelines.core.execution import RunRef, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.engine.tick import MERGE
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.execution.work import Work
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.spans import Trace, new_trace_id
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.batching import Batching, Echo, agent, spec, write
from agent_pipelines_tests.execution.batch.splitting import Splitted
from agent_pipelines_tests.execution.conftest import invocation


def limit(hub: Hub, **values: Any) -> None:
    with hub.database.transaction() as connection:
        hub.limits.set(connection, LimitSpec.model_validate(values), actor="test")


def test_a_short_fault_of_the_database_loses_no_item(batching: Batching, monkeypatch: pytest.MonkeyPatch) -> None:
    write(batching.directory, [f"say {number}" for number in range(6)])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    limits, calls = batching.hub.limits, 0
    in_force = limits.in_force

    def flaky(connection: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageError("the database was restarted just now")
        return in_force(connection)

    monkeypatch.setattr(limits, "in_force", flaky)
    shard = batching.work(task, split.batch.id).shard
    assert shard is not None
    assert shard.done + shard.failed == shard.item_count


class Resting(Echo):
    """`first` fails once at once; `long` stops at a checkpoint when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.is_there = asyncio.Event()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        assert invocation.item is not None
        self.asked.append(invocation.item)
        text = invocation.messages[-1].content
        if text == "first" and self.asked.count(invocation.item) == 1:
            raise RuntimeError("once")
        if text == "long":
            self.is_there.set()
            await self.go.wait()
            yield Checkpoint(name="half", data={})
        yield Final(text=text)


def test_a_batch_that_yields_goes_on(database: Database, tmp_path: Any) -> None:
    hub = Hub(database, SystemClock())
    other = FlowControl(database, hub.clock, hub.limits, hub.permits)  # of another process
    batching = Batching(hub, tmp_path)
    write(tmp_path, ["first", "long", "more", "and more"])
    limit(hub, scope="agent/worker", concurrency=2)
    retry = {"max_attempts": 2, "errors": ["internal"], "delay": 0.3, "jitter": 0}
    task = spec({"in_flight": 1}, priority_class="batch", retry=retry, timeout={"attempt": 5, "total": 8})
    split = batching.split(task)
    assert split.batch is not None
    batch_id = split.batch.id

    async def run() -> list[str]:
        resting = Resting()
        working = asyncio.create_task(batching.worker(task, agent=agent(resting)).work(batch_id, 0))
        await resting.is_there.wait()
        await asyncio.sleep(2)  # by now `first` has a permit again, and waits for the slot of `long`
        # Another batch comes, and is to have one of the two permits.
        asking = asyncio.create_task(other.acquire(["agent/worker"], application="other", priority_class="batch"))
        await asyncio.sleep(2)
        resting.go.set()
        permit = await asyncio.wait_for(asking, 15)
        await asyncio.wait([working], timeout=20)  # one permit is left for this batch, which has one slot
        asked = list(resting.asked)
        working.cancel()
        await asyncio.wait([working])
        permit.release()
        await other.close()
        await hub.flow.close()
        return asked

    asked = asyncio.run(run())
    assert len(asked) == 5, f"stood still for 20 s with a permit and a slot in hand, limits of time 5 s and 8 s: {asked}"


def test_a_broadcast_leaves_the_declared_nodes_alone(batching: Batching) -> None:
    task = spec({"form": "broadcast", "items": None, "key": None, "in_flight": 4}, prompt="Hello {{ item.node }}")
    nodes = [Node(f"n{number}", Echo(), capacity=3, labels={"zone": "a"}) for number in range(1, 7)]
    whole = Agent("worker", nodes, provider="acme")
    split = batching.split(task, whole)
    assert split.batch is not None
    hub = batching.hub
    with hub.database.transaction() as connection:
        hub.fleet.nodes.declare(connection, "worker", {n.name: (n.capacity, n.labels) for n in nodes})
    batching.work(task, split.batch.id, agent=whole)
    with hub.database.reading() as connection:
        known = {each.name: each.capacity for each in hub.fleet.nodes.of(connection, "worker")}
    assert known == {n.name: 3 for n in nodes}


def test_a_run_gives_its_permits_back(database: Database, tmp_path: Any) -> None:
    batching = Batching(Hub(database, SystemClock()), tmp_path)
    write(batching.directory, ["a", "b"])
    limit(batching.hub, scope="agent/worker", concurrency=2)
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    which = agent(batching.echo)
    asyncio.run(closing(batching.hub, [which], batching.worker(task, agent=which).work(split.batch.id, 0)))
    with batching.hub.database.reading() as connection:
        assert batching.hub.permits.holders(connection) == []


def test_what_items_use_corrects_the_rates(batching: Batching) -> None:
    write(batching.directory, ["a", "b"])
    limit(batching.hub, scope="agent/worker", tokens="100000/m")
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batching.work(task, split.batch.id)
    assert batching.hub.flow._used == {task.key: 4}  # pyright: ignore


def test_a_batch_waits_as_batch() -> None:
    assert spec().waits_as == "batch"


def test_the_time_of_waiting_is_given_back_once(hub: Hub) -> None:
    task = spec()
    which = agent(Echo())
    request = invocation(deadline_at=hub.clock.now() + 100_000_000)
    work = Work(task, which, RunRef(run_id="r"), (), Trace(new_trace_id()), cast(Any, None), request, hub.clock.now())
    before = work.remaining(hub.clock.now())
    hub.flow._note(work, hub.clock.now() - 40_000_000, 40_000_000)  # pyright: ignore
    assert work.remaining(hub.clock.now()) == before + 40


def test_a_merge_whose_run_dies_while_it_writes_the_results_is_requested_again(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 1)
    split.advance()
    split.work_off()
    split.runs.end(split.split_run, "SUCCESS")
    (tick,) = split.ticks(MERGE)
    merge_run = new_id()
    with database.transaction() as connection:  # as components/batch/merging.py:_asked does
        of = {"run_id": merge_run, "execution_id": split.batch.execution_id}
        split.hub.ticks.decide(connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.RAN, **of)
    split.runs.end(merge_run)  # OSError: no space left, kill -9, ...
    assert split.keeper.look() or len(split.ticks(MERGE)) == 2, (split.status, split.execution_status())


def test_a_split_whose_execution_the_reconciler_has_closed_ends(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 0)
    split.runs.end(split.split_run)
    with database.transaction() as connection:
        assert split.hub.executions.close_lost(connection, split.batch.execution_id, "its process was lost")
    split.keeper.look()
    assert split.status is BatchStatus.FAILED, (split.status, split.execution_status())


def test_a_node_is_free_when_its_agent_has_answered(batching: Batching) -> None:
    write(batching.directory, [f"say {number}" for number in range(8)])
    task = spec({"in_flight": 4})
    split = batching.split(task)
    assert split.batch is not None
    batch_id, order = split.batch.id, list[str]()
    router, nouns = batching.nouns.router, batching.nouns

    class Watched(Echo):
        async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
            async for event in super().stream(invocation):
                yield event
            order.append(f"answered {invocation.item}")

    class Router:
        async def choose(self, work: Any) -> Any:
            return await router.choose(work)

        async def leave(self, work: Any, outcome: Any) -> None:
            with batching.hub.database.reading() as connection:
                stored = batching.hub.executions.get(connection, work.stored.id)
            order.append(f"left {work.invocation.item} {stored.status if stored else None}")
            await router.leave(work, outcome)

    batching.nouns = replace(nouns, router=cast(Any, Router()))
    batching.work(task, batch_id, agent=agent(Watched()))
    assert not [each for each in order if each.endswith("succeeded")], order


def test_a_batch_asks_its_fallback_or_refuses_to_have_one() -> None:
    with pytest.raises(ValueError, match="fallback"):
        spec(fallback=[{"agent": "other"}])
