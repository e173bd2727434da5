import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agent_pipelines.core.breaker import BreakerSpec
from agent_pipelines.core.clock import ManualClock, SystemClock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.conftest import invocation, spec

ONCE = {"retry": {"max_attempts": 1}}


class Serving(Runtime[RuntimeConfig]):
    """One node: counts what it is asked, and how much at once; fails while `down` is set."""

    kind = "serving"
    config_type = RuntimeConfig
    capabilities = Capabilities(cancels=True, keeps_sessions=True)

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__(RuntimeConfig())
        self.seconds = seconds
        self.asked = 0
        self.at_once = 0
        self.most = 0
        self.down: ErrorClass | None = None
        self.started = asyncio.Event()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        self.asked += 1
        self.started.set()
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            if self.down is not None:
                raise RuntimeFailure(self.down, "it is down")
            yield Final(text="done", session_id="remote")
        finally:
            self.at_once -= 1


class Telling(Serving):
    """A node that tells its health without any work."""

    async def health(self) -> None:
        if self.down is not None:
            raise RuntimeFailure(self.down, "it is ill")


def fleet_of(*runtimes: Runtime[Any], breaker: BreakerSpec | None = None, **more: Any) -> Agent:
    """An agent with nodes a, b, c, ...; `capacity` holds for each, `labels` are a list."""
    labels = more.pop("labels", [{}] * len(runtimes))
    named = zip("abcdefgh", runtimes, labels, strict=False)
    return Agent("worker", [Node(name, runtime, labels=of, **more) for name, runtime, of in named], breaker=breaker)


def run(hub: Hub, agent: Agent, task: TaskSpec | None = None) -> ExecutionResult:
    return hub.runner.execute(invocation(), task or spec(**ONCE), agent, run=RunRef(run_id=new_id()))


async def run_many(hub: Hub, agent: Agent, count: int, at_once: int, task: TaskSpec | None = None) -> list[ExecutionResult]:
    free = asyncio.Semaphore(at_once)

    async def one() -> ExecutionResult:
        async with free:
            return await hub.runner.run(invocation(), task or spec(**ONCE), agent, run=RunRef(run_id=new_id()))

    return await asyncio.gather(*(one() for _ in range(count)))


def told(hub: Hub) -> list[str]:
    with hub.database.reading() as connection:
        return [row.kind for row in hub.ledger.outbox.after(connection, 0) if not row.kind.startswith("execution.")]


def test_equal_tasks_at_once_spread_equally(hub: Hub) -> None:
    nodes = [Serving(seconds=0.01) for _ in range(4)]
    asyncio.run(run_many(hub, fleet_of(*nodes), 100, 12))
    assert sum(node.asked for node in nodes) == 100
    assert max(node.asked for node in nodes) <= 30


def test_equal_tasks_one_after_another_in_processes_of_their_own_spread_equally(database: Database, clock: ManualClock) -> None:
    nodes = [Serving() for _ in range(4)]
    for _ in range(100):
        run(Hub(database, clock), fleet_of(*nodes))
    assert max(node.asked for node in nodes) <= 30


def test_a_new_node_does_not_get_everything_until_it_has_caught_up(database: Database, clock: ManualClock) -> None:
    old = [Serving(), Serving()]
    for _ in range(30):
        run(Hub(database, clock), fleet_of(*old))
    new = Serving()
    for _ in range(30):
        run(Hub(database, clock), fleet_of(*old, new))
    assert 5 <= new.asked <= 15


def test_the_capacity_of_a_node_is_never_exceeded_by_processes_together(database: Database) -> None:
    nodes = [Serving(seconds=0.005), Serving(seconds=0.005)]
    agent = fleet_of(*nodes, capacity=3)

    async def many() -> list[list[ExecutionResult]]:
        hubs = [Hub(database, SystemClock()) for _ in range(3)]
        return await asyncio.gather(*(run_many(each, agent, 20, 10) for each in hubs))

    results = asyncio.run(many())
    assert {each.status for part in results for each in part} == {Status.SUCCEEDED}
    assert max(node.most for node in nodes) <= 3
    assert Counter(each.node for part in results for each in part).total() == 60


def test_all_nodes_stay_busy_until_the_limit_of_time(hub: Hub, clock: ManualClock) -> None:
    with hub.database.transaction() as connection:
        hub.fleet.nodes.declare(connection, "worker", {"a": (1, {})})
        assert hub.fleet.loads.acquire(connection, "worker", "a", "another process")
    node = Serving()
    task = spec(timeout={"attempt": "5s", "total": "10s"}, **ONCE)
    result = run(hub, fleet_of(node, capacity=1), task)
    assert (result.error_class, node.asked) == (ErrorClass.TIMEOUT, 0)
    assert "busy" in (result.error_message or "")
    clock.time += 20_000_000  # the other process has fallen silent: its permits are free
    assert run(hub, fleet_of(node, capacity=1), task).status is Status.SUCCEEDED


def test_only_nodes_with_the_labels_are_asked(hub: Hub) -> None:
    nodes = [Serving(), Serving(), Serving()]
    agent = fleet_of(*nodes, labels=[{"gpu": "yes"}, {}, {"gpu": "no"}])
    for _ in range(5):
        assert run(hub, agent, spec(placement={"labels": {"gpu": "yes"}}, **ONCE)).node == "a"
    assert [node.asked for node in nodes] == [5, 0, 0]


def test_a_label_that_no_node_has_ends_without_an_agent(hub: Hub, clock: ManualClock) -> None:
    before = clock.now()
    result = run(hub, fleet_of(Serving()), spec(placement={"labels": {"gpu": "yes"}, "wait": "20s"}, **ONCE))
    assert (result.status, result.error_class, result.node) == (Status.FAILED, ErrorClass.NO_AGENT, None)
    assert "node a lacks the label gpu=yes" in (result.error_message or "")
    assert clock.now() - before == 20_000_000
    assert told(hub) == []  # the agent itself is there


def test_a_drained_node_gets_nothing_and_the_outage_is_told_once(hub: Hub) -> None:
    agent = fleet_of(Serving())
    assert run(hub, agent).status is Status.SUCCEEDED
    with hub.database.transaction() as connection:
        hub.fleet.nodes.drain(connection, "worker", "a")
    fresh = Hub(hub.database, hub.clock)
    for _ in range(2):
        result = run(fresh, agent)
        assert (result.error_class, result.error_message) == (
            ErrorClass.NO_AGENT,
            "no node of agent worker is available: node a is draining",
        )
    with hub.database.transaction() as connection:
        assert list(hub.fleet.outages.lasting(connection)) == ["worker"]
        hub.fleet.nodes.resume(connection, "worker", "a")
    assert run(Hub(hub.database, hub.clock), agent).status is Status.SUCCEEDED
    assert told(hub) == ["agent.unavailable", "agent.available"]


def test_each_attempt_moves_on_to_a_node_that_was_not_tried(hub: Hub) -> None:
    nodes = [Serving(), Serving(), Serving()]
    for node in nodes:
        node.down = ErrorClass.SERVER
    result = run(hub, fleet_of(*nodes), spec(retry={"max_attempts": 3}))
    assert result.status is Status.FAILED
    assert [node.asked for node in nodes] == [1, 1, 1]


def test_failures_open_the_breaker_and_one_attempt_tries_the_node_again(hub: Hub, clock: ManualClock) -> None:
    bad, good = Serving(), Serving()
    agent = fleet_of(bad, good, breaker=BreakerSpec.model_validate({"failures": 3, "pause": "5s"}))
    bad.down = ErrorClass.CONNECTION
    for _ in range(20):
        assert run(hub, agent, spec(retry={"max_attempts": 2, "delay": 0})).status is Status.SUCCEEDED
    assert bad.asked == 3
    assert told(hub) == ["node.opened"]
    clock.time += 5_000_000
    run(hub, agent, spec(retry={"max_attempts": 2, "delay": 0}))
    run(hub, agent, spec(retry={"max_attempts": 2, "delay": 0}))
    assert bad.asked == 4  # and not before twice the pause
    bad.down = None
    clock.time += 10_000_000
    run(hub, agent)
    assert (bad.asked, told(hub)) == (5, ["node.opened", "node.closed"])


def test_the_breaker_is_shared_and_what_is_no_fault_of_the_node_does_not_count(database: Database, clock: ManualClock) -> None:
    node = Serving()
    agent = fleet_of(node, breaker=BreakerSpec.model_validate({"failures": 3}))
    for error_class in (ErrorClass.AGENT, ErrorClass.RATE_LIMIT, ErrorClass.INVALID_REQUEST, ErrorClass.REFUSED):
        node.down = error_class
        for _ in range(3):
            run(Hub(database, clock), agent)
    node.down = ErrorClass.OVERLOADED
    for _ in range(3):
        assert run(Hub(database, clock), agent).error_class is ErrorClass.OVERLOADED
    result = run(Hub(database, clock), agent, spec(placement={"wait": 0}, **ONCE))
    assert (result.error_class, node.asked) == (ErrorClass.NO_AGENT, 15)
    assert "has failed (overloaded)" in (result.error_message or "")


def test_a_runtime_that_tells_its_health_is_not_tried_with_work(hub: Hub, clock: ManualClock) -> None:
    ill, good = Telling(), Telling()
    agent = fleet_of(ill, good, breaker=BreakerSpec.model_validate({"failures": 1, "pause": "5s"}))
    ill.down = ErrorClass.SERVER
    while ill.asked == 0:
        run(hub, agent)
    for _ in range(3):
        clock.time += 60_000_000
        assert run(hub, agent).node == "b"
    assert ill.asked == 1
    ill.down = None
    clock.time += 60_000_000
    assert run(hub, agent).node == "a"


def test_an_execution_waits_for_a_node_that_is_to_be_tried_again(hub: Hub, clock: ManualClock) -> None:
    node = Serving()
    agent = fleet_of(node, breaker=BreakerSpec.model_validate({"failures": 1, "pause": "5s"}))
    node.down = ErrorClass.SERVER
    run(hub, agent)
    node.down = None
    before = clock.now()
    assert run(hub, agent).status is Status.SUCCEEDED
    assert 5_000_000 <= clock.now() - before < 7_000_000
    assert told(hub) == ["node.opened", "agent.unavailable", "node.closed", "agent.available"]


def test_a_conversation_stays_on_its_node(hub: Hub) -> None:
    nodes = [Serving(), Serving(), Serving()]
    agent = fleet_of(*nodes)
    task = spec(prompt="Hello", session={"mode": "task"}, **ONCE)
    first = run(hub, agent, task).node
    assert first is not None
    assert {run(hub, agent, task).node for _ in range(10)} == {first}
    with hub.database.transaction() as connection:
        hub.fleet.nodes.drain(connection, "worker", first)
    moved = {run(Hub(hub.database, hub.clock), agent, task).node for _ in range(5)}
    assert len(moved) == 1
    assert first not in moved


def test_what_a_process_holds_is_forgotten_when_it_has_ended_its_work(hub: Hub) -> None:
    asyncio.run(run_many(hub, fleet_of(Serving(), Serving(), capacity=2), 6, 4))
    with hub.database.reading() as connection:
        assert hub.fleet.loads.others(connection, "worker", "nobody") == {}
        assert sum(node.placed for node in hub.fleet.nodes.of(connection, "worker")) == 6


def test_a_cancelled_attempt_gives_its_place_back(hub: Hub) -> None:
    node = Serving(seconds=60)
    agent = fleet_of(node, capacity=1)

    async def cancel_one() -> None:
        running = asyncio.create_task(hub.runner.run(invocation(), spec(), agent, run=RunRef(run_id="r")))
        await node.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel_one())
    node.seconds = 0
    assert run(hub, agent).status is Status.SUCCEEDED
