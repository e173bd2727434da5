import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.event import Checkpoint, Final, Usage
from agent_pipelines.core.limit import LimitSpec, PriorityClass
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.bursting import Counting, register, verdicts, worker
from agent_pipelines_tests.execution.bursting import spec as burst_spec
from agent_pipelines_tests.execution.conftest import Execute, spec
from agent_pipelines_tests.execution.scripted import ScriptedRuntime
from agent_pipelines_tests.flow.serving import most_in_any_window


def limit(hub: Hub, **values: Any) -> None:
    with hub.database.transaction() as connection:
        hub.limits.set(connection, LimitSpec.model_validate(values), actor="test")


async def until(condition: Callable[[], Any]) -> None:
    while not await asyncio.to_thread(condition):
        pass


def test_without_a_limit_nothing_is_written(hub: Hub) -> None:
    async def run() -> None:
        permit = await hub.flow.acquire(["agent/w"], application="a")
        assert permit.held is None
        permit.release()

    asyncio.run(run())
    with hub.database.reading() as connection:
        assert hub.permits.holders(connection) == []


def test_a_thousand_calls_at_ten_in_a_second(hub: Hub) -> None:
    limit(hub, scope="provider/p", requests="10/s")
    granted: list[int] = []

    async def call() -> None:
        permit = await hub.flow.acquire(["provider/p"], application="a")
        granted.append(permit.granted_at or 0)
        permit.release()

    async def run() -> None:
        await asyncio.gather(*(call() for _ in range(1_000)))
        await hub.flow.close()

    asyncio.run(run())
    assert len(granted) == 1_000
    assert most_in_any_window(granted, 1_000_000) <= 10


def order_of_starts(database: Database) -> list[str]:
    """Who begins after whom, of a seeded crowd that a limit of three makes wait."""
    hub, chance, started = Hub(database, ManualClock()), random.Random(11), list[str]()
    limit(hub, scope="agent/w", concurrency=3)
    classes: tuple[PriorityClass, ...] = ("interactive", "normal", "batch")

    async def work(name: str, application: str, priority_class: PriorityClass, priority: int, turns: int) -> None:
        permit = await hub.flow.acquire(["agent/w"], application=application, priority_class=priority_class, priority=priority)
        started.append(name)
        for _ in range(turns):
            await asyncio.sleep(0)
        permit.release()

    async def run() -> None:
        crowd = [
            work(f"{number}", chance.choice("abc"), chance.choice(classes), chance.randint(0, 2), chance.randint(1, 5))
            for number in range(200)
        ]
        holding = [await hub.flow.acquire(["agent/w"], application="a") for _ in range(3)]
        running = [asyncio.create_task(each) for each in crowd]
        await until(lambda: sum(each.waiting for each in hub.limiting.queue()) == 200)
        for permit in holding:
            permit.release()
        await asyncio.gather(*running)
        await hub.flow.close()

    asyncio.run(run())
    return started


def test_the_same_crowd_begins_in_the_same_order(database: Database) -> None:
    first = order_of_starts(database)
    assert len(first) == 200
    assert order_of_starts(database) == first


def test_what_is_interactive_begins_before_every_batch_item_that_waits(database: Database) -> None:
    hub, other, started = Hub(database), Hub(database), list[str]()
    limit(hub, scope="agent/w", concurrency=2)

    async def item(flow: FlowControl, name: str, priority_class: PriorityClass) -> None:
        permit = await flow.acquire(["agent/w"], application=name, priority_class=priority_class)
        started.append(name)
        await asyncio.sleep(0.3)
        permit.release()

    async def run() -> None:
        batch = [asyncio.create_task(item(hub.flow, "batch", "batch")) for _ in range(8)]
        await until(lambda: len(started) == 2)
        await item(other.flow, "person", "interactive")
        await asyncio.gather(*batch)
        await hub.flow.close()
        await other.flow.close()

    asyncio.run(run())
    assert started.index("person") <= 4


def test_a_long_batch_item_lets_others_go_first_at_its_boundary_and_goes_on(database: Database) -> None:
    hub, other, told = Hub(database), Hub(database), list[str]()
    limit(hub, scope="agent/w", concurrency=1)

    async def long(over: asyncio.Event) -> None:
        permit = await hub.flow.acquire(["agent/w"], application="batch", priority_class="batch")
        told.append("begun")
        while "person" not in told:
            await asyncio.sleep(0.02)
            await hub.flow.boundary(permit)
        told.append("goes on")
        assert permit.queued > 0
        permit.release()
        over.set()

    async def run() -> None:
        over = asyncio.Event()
        running = asyncio.create_task(long(over))
        await until(lambda: told)
        permit = await other.flow.acquire(["agent/w"], application="people", priority_class="interactive")
        told.append("person")
        await asyncio.sleep(0.2)
        assert not over.is_set()
        permit.release()
        await running
        await hub.flow.close()
        await other.flow.close()

    asyncio.run(run())
    assert told == ["begun", "person", "goes on"]


def test_one_that_is_cancelled_while_it_waits_or_works_leaves_its_permit_to_others(database: Database) -> None:
    hub = Hub(database)
    limit(hub, scope="agent/w", concurrency=1)

    async def run() -> None:
        first = await hub.flow.acquire(["agent/w"], application="a")
        waiting = asyncio.create_task(hub.flow.acquire(["agent/w"], application="a"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        first.release()
        first.release()
        (await hub.flow.acquire(["agent/w"], application="a")).release()
        await hub.flow.close()

    asyncio.run(run())
    with hub.database.reading() as connection:
        assert hub.permits.held(connection) == {}
        assert hub.permits.holders(connection) == []


def test_tasks_that_share_a_resource_are_serialised_and_others_are_not(database: Database) -> None:
    hub = Hub(database)
    sharing, apart = Counting(0.02), Counting(0.2)
    register(hub, *(burst_spec(f"shared{number}", resource_keys=["repository"]) for number in range(4)))
    asyncio.run(worker(hub, sharing).work())
    register(hub, *(burst_spec(f"apart{number}") for number in range(4)))
    asyncio.run(worker(hub, apart).work())
    assert verdicts(hub) == {"ran": 8}
    assert sharing.most == 1
    assert apart.most > 1


def test_a_full_burst_still_takes_what_is_interactive(database: Database) -> None:
    hub, runtime = Hub(database), Counting(0.15)
    limit(hub, scope="agent/worker", concurrency=2)
    batch = [burst_spec(f"batch{number:02}", priority_class="batch") for number in range(40)]
    for each in batch:
        register(hub, each, priority=each.precedence)

    async def run() -> None:
        working = asyncio.create_task(worker(hub, runtime).work())
        await until(lambda: runtime.asked)
        person = burst_spec("person", priority_class="interactive")
        await asyncio.to_thread(lambda: register(hub, person, priority=person.precedence))
        await working

    asyncio.run(run())
    assert verdicts(hub) == {"ran": 41}
    assert runtime.most == 2
    assert runtime.tasks.index("person") < 20  # the twenty that the burst had in hand already


def test_the_wait_is_in_the_record_and_tokens_are_settled(hub: Hub, execute: Execute) -> None:
    limit(hub, scope="application/app", concurrency=1, tokens="6000/m")
    runtime = ScriptedRuntime([Checkpoint(name="half", data={}), Final(text="done")])
    result = execute(runtime, spec=spec(cost_estimate={"tokens": 200}))
    assert result.status == "succeeded"
    with hub.database.reading() as connection:
        (queue,) = [each for each in hub.ledger.spans.read(connection, result.execution_id) if each.name == "queue"]
        assert hub.permits.holders(connection) == []
    assert queue.attributes["agent_pipelines.priority_class"] == "normal"
    scopes = queue.attributes["agent_pipelines.scopes"]
    assert isinstance(scopes, list)
    assert "application/app" in scopes


def test_usage_is_what_a_permit_costs_in_the_end(hub: Hub) -> None:
    limit(hub, scope="provider/p", tokens="6000/m", tokens_burst=1_000)

    async def run() -> float:
        first = await hub.flow.acquire(["provider/p"], application="a", tokens=100)
        first.release(Usage(input_tokens=1_900, output_tokens=100))
        before = hub.clock.now()
        second = await hub.flow.acquire(["provider/p"], application="a", tokens=100)
        second.release()
        await hub.flow.close()
        return (hub.clock.now() - before) / 1_000_000

    assert asyncio.run(run()) >= 10  # a thousand of its tokens were more than the bucket had, at a hundred a second
