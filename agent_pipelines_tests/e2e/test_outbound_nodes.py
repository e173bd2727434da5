import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final, Text, ToolCall, ToolResult, Usage, UsageReport
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.node import NodeConfig, NodeRuntime
from agent_pipelines.runtimes.node_client import NodeRefused
from agent_pipelines.runtimes.node_worker import NodeWorker
from agent_pipelines.store.database import Database
from agent_pipelines_tests.e2e.serving_nodes import MovedClock, client, serving
from agent_pipelines_tests.execution.conftest import invocation, spec


class Stepping(Runtime[RuntimeConfig]):
    """Does two steps, the second when it is let; counts how often it began, ended and was stopped."""

    kind = "stepping"
    config_type = RuntimeConfig
    capabilities = Capabilities(cancels=True)

    def __init__(self, failure: RuntimeFailure | None = None) -> None:
        super().__init__(RuntimeConfig())
        self.failure = failure
        self.began: list[Invocation] = []
        self.ended = asyncio.Event()
        self.stopped = asyncio.Event()
        self.under_way = asyncio.Event()
        self.go = asyncio.Event()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        self.began.append(invocation)
        try:
            yield Text(text="first ")
            yield ToolCall(id="1", name="look", arguments={"at": "it"})
            self.under_way.set()
            await self.go.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.set()
            raise
        if self.failure is not None:
            raise self.failure
        yield ToolResult(id="1", name="look", output="seen")
        yield UsageReport(usage=Usage(input_tokens=3, output_tokens=4), model="m-1")
        self.ended.set()
        yield Final(text="first second")


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def hub(database: Database, clock: MovedClock) -> Hub:
    return Hub(database, clock)


@pytest.fixture
def port(hub: Hub) -> Generator[int]:
    with serving(hub) as port:
        yield port


def remote(**config: Any) -> Agent:
    return Agent("worker", [Node("main", NodeRuntime(NodeConfig.model_validate(config)))])


async def execute(hub: Hub, task: TaskSpec | None = None, agent: Agent | None = None) -> ExecutionResult:
    return await hub.runner.run(invocation(), task or spec(), agent or remote(), run=RunRef(run_id=new_id()))


@asynccontextmanager
async def working(port: int, node: str, runtime: Runtime[Any], **more: Any) -> AsyncGenerator[asyncio.Event]:
    stop = asyncio.Event()
    worker = NodeWorker(client(port, node), runtime, **{"capacity": 2, "labels": {}, **more})
    running = asyncio.create_task(worker.run(stop))
    try:
        yield stop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_node_that_only_opens_connections_receives_work_and_reports_it(hub: Hub, port: int) -> None:
    async def scenario() -> ExecutionResult:
        runtime = Stepping()
        async with working(port, "berlin", runtime):
            running = asyncio.create_task(execute(hub, spec(prompt="Look at it")))
            await runtime.under_way.wait()
            runtime.go.set()
            result = await running
        assert runtime.began[0].messages[-1].content == "Look at it"
        return result

    result = asyncio.run(scenario())
    assert (result.status, result.text, result.node, result.model) == (Status.SUCCEEDED, "first second", "berlin", "m-1")
    assert result.usage.total_tokens == 7
    with hub.database.reading() as connection:
        kinds = [entry.kind for entry in hub.ledger.journal.read(connection, result.execution_id)]
        (order,) = hub.fleet.orders.list(connection)
        assert hub.fleet.orders.events(connection, order.id, 0) == []
        (node,) = hub.fleet.nodes.of(connection, "worker")
    assert kinds == ["text", "tool_call", "tool_result", "usage", "final"]
    assert (order.state, order.invocation, node.beat_at) == ("finished", None, None)


def test_a_failure_keeps_its_class(hub: Hub, port: int) -> None:
    async def scenario() -> ExecutionResult:
        runtime = Stepping(RuntimeFailure(ErrorClass.REFUSED, "no", status=451))
        runtime.go.set()
        async with working(port, "berlin", runtime):
            return await execute(hub)

    result = asyncio.run(scenario())
    assert (result.error_class, result.error_message) == (ErrorClass.REFUSED, "no")


def test_cancelling_the_execution_stops_the_node(hub: Hub, port: int) -> None:
    async def scenario() -> None:
        runtime = Stepping()
        async with working(port, "berlin", runtime):
            running = asyncio.create_task(execute(hub))
            await runtime.under_way.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await runtime.stopped.wait()

    asyncio.run(scenario())


def test_a_node_that_is_cut_off_goes_on_and_what_it_did_is_merged_when_it_is_back(hub: Hub, clock: MovedClock) -> None:
    async def scenario() -> list[ExecutionResult]:
        runtimes = [Stepping(), Stepping()]
        with serving(hub) as port:
            pass
        server = serving(hub, port)
        await asyncio.to_thread(server.__enter__)
        async with working(port, "a", runtimes[0], capacity=1), working(port, "b", runtimes[1], capacity=1):
            running = [asyncio.create_task(execute(hub, agent=remote(lease="90s"))) for _ in range(2)]
            for runtime in runtimes:
                await runtime.under_way.wait()
            await asyncio.to_thread(server.__exit__, None, None, None)
            clock.ahead += 60
            for runtime in runtimes:
                runtime.go.set()
                await runtime.ended.wait()
            again = serving(hub, port)
            await asyncio.to_thread(again.__enter__)
            try:
                results = await asyncio.gather(*running)
            finally:
                await asyncio.to_thread(again.__exit__, None, None, None)
        assert [len(runtime.began) for runtime in runtimes] == [1, 1]
        return results

    results = asyncio.run(scenario())
    assert [(each.status, each.text, each.attempts) for each in results] == [(Status.SUCCEEDED, "first second", 1)] * 2
    for each in results:
        with hub.database.reading() as connection:
            kinds = [entry.kind for entry in hub.ledger.journal.read(connection, each.execution_id)]
        assert kinds == ["text", "tool_call", "tool_result", "usage", "final"]


def test_a_node_whose_lease_is_over_is_refused_and_its_work_is_done_once_more(hub: Hub, port: int, clock: MovedClock) -> None:
    task = spec(retry={"idempotent": True, "delay": 0, "max_attempts": 2})

    async def scenario() -> tuple[ExecutionResult, NodeRefused]:
        late = client(port, "a")
        await late.register(capacity=1, labels={}, runtime="fake")
        running = asyncio.create_task(execute(hub, task, remote(lease="30s")))
        (order,) = await late.pull([], limit=1, wait=10)
        assert await late.report(order, [(1, Text(text="half").model_dump(mode="json"))]) == 1
        clock.ahead += 31
        runtime = Stepping()
        runtime.go.set()
        async with working(port, "b", runtime):
            result = await running
        with pytest.raises(NodeRefused) as refused:
            await late.finish(order, 1, None)
        assert (await late.beat([order.id])).held == ()
        await late.close()
        assert len(runtime.began) == 1
        return result, refused.value

    result, refused = asyncio.run(scenario())
    assert (result.status, result.node, result.attempts) == (Status.SUCCEEDED, "b", 2)
    assert refused.status == 409
    assert "comes too late" in str(refused)
    with hub.database.reading() as connection:
        first, second = hub.executions.attempts.of(connection, result.execution_id)
        orders = hub.fleet.orders.list(connection)
    assert (first.error_class, first.node, second.node) == (ErrorClass.UNKNOWN_OUTCOME, "a", "b")
    assert [(order.fence, order.state) for order in orders] == [(2, "finished"), (1, "lost")]


def test_work_that_may_not_be_repeated_is_not_given_to_another_node(hub: Hub, port: int, clock: MovedClock) -> None:
    async def scenario() -> ExecutionResult:
        late, other = client(port, "a"), client(port, "b")
        await late.register(capacity=1, labels={}, runtime="fake")
        running = asyncio.create_task(execute(hub, None, remote(lease="30s")))
        await late.pull([], limit=1, wait=10)
        clock.ahead += 31
        await other.register(capacity=1, labels={}, runtime="fake")
        result = await running
        assert await other.pull([], limit=1, wait=0) == ()
        await asyncio.gather(late.close(), other.close())
        return result

    result = asyncio.run(scenario())
    assert (result.error_class, result.attempts) == (ErrorClass.UNKNOWN_OUTCOME, 1)


def test_work_that_a_silent_node_never_took_goes_to_another(hub: Hub, port: int, clock: MovedClock) -> None:
    async def scenario() -> ExecutionResult:
        gone = client(port, "a")
        await gone.register(capacity=1, labels={}, runtime="fake")
        running = asyncio.create_task(execute(hub, spec(retry={"delay": 0})))
        while True:
            with hub.database.reading() as connection:
                if hub.fleet.orders.list(connection):
                    break
            await asyncio.sleep(0)
        clock.ahead += 20
        runtime = Stepping()
        runtime.go.set()
        async with working(port, "b", runtime):
            result = await running
        await gone.close()
        return result

    result = asyncio.run(scenario())
    assert (result.status, result.node, result.attempts) == (Status.SUCCEEDED, "b", 2)


def test_stopping_all_nodes_raises_the_state_within_the_heartbeat_window(hub: Hub, port: int, clock: MovedClock) -> None:
    async def scenario() -> ExecutionResult:
        nodes = [client(port, name) for name in ("a", "b")]
        for node in nodes:
            await node.register(capacity=1, labels={}, runtime="fake")
        hub.fleet_watch.look()
        assert _told(hub) == []
        clock.ahead += 16
        hub.fleet_watch.look()
        hub.fleet_watch.look()
        assert _told(hub) == ["agent.unavailable"]
        result = await execute(hub, spec(placement={"wait": 0}))
        await nodes[0].register(capacity=1, labels={}, runtime="fake")
        assert _told(hub) == ["agent.unavailable", "agent.available"]
        await asyncio.gather(*(node.close() for node in nodes))
        return result

    result = asyncio.run(scenario())
    assert result.error_class is ErrorClass.NO_AGENT
    assert "node a is silent since" in (result.error_message or "")


def test_a_process_that_takes_an_execution_over_takes_up_the_work_that_a_node_does(hub: Hub, port: int) -> None:
    request = invocation()

    async def scenario() -> ExecutionResult:
        runtime = Stepping()
        async with working(port, "a", runtime):
            # As a process leaves it that was killed.
            written = request.model_dump(mode="json")
            await hub.database.write(
                lambda c: hub.fleet.orders.put(c, request.idempotency_key, agent="worker", node="a", invocation=written, lease=90)
            )
            await runtime.under_way.wait()
            running = asyncio.create_task(hub.runner.run(request, spec(), remote(), run=RunRef(run_id="second")))
            runtime.go.set()
            result = await running
        assert len(runtime.began) == 1
        return result

    result = asyncio.run(scenario())
    assert (result.status, result.text, result.node) == (Status.SUCCEEDED, "first second", "a")


def _told(hub: Hub) -> list[str]:
    with hub.database.reading() as connection:
        return [row.kind for row in hub.ledger.outbox.after(connection, 0) if not row.kind.startswith("execution.")]
