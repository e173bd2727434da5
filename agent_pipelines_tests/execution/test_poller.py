import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.engine.tick import CONTINUATION
from agent_pipelines.execution.poller import Poller
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.catalog import create
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Connection, Database
from agent_pipelines_tests.execution.conftest import invocation, spec
from agent_pipelines_tests.runtimes.runs_server import RunsServer, running, settings

SECOND = 1_000_000
TASK = spec(prompt="Work", timeout={"attempt": "5m", "total": "2d"})


@pytest.fixture
def server() -> Iterator[RunsServer]:
    with running() as server:
        yield server


class Waiting:
    """Executions that wait for runs of one server."""

    def __init__(self, database: Database, clock: ManualClock, server: RunsServer, **config: Any) -> None:
        self.hub, self.clock, self.server = Hub(database, clock), clock, server
        self.config = settings(server, many=True, **config)

    def agent(self) -> Agent:
        return Agent("worker", [Node("main", create("http", self.config))])

    def poller(self, **settings: Any) -> Poller:
        hub = self.hub
        return Poller(hub.database, hub.clock, hub.ledger, hub.continuations, {"worker": self.agent}, **settings)

    def open(self, count: int) -> None:
        """Executions as they wait after their runs have ended, made at once."""
        with self.hub.database.transaction() as connection:
            spec_hash = self.hub.ledger.specs.put(connection, TASK)
            for number in range(count):
                self._open(connection, spec_hash, f"run-{number + 1}")
        self.server.runs = {f"run-{number + 1}": "work" for number in range(count)}

    def _open(self, connection: Connection, spec_hash: str, handle: str) -> None:
        executions, now = self.hub.executions, self.clock.now()
        run = RunRef(run_id=new_id())
        admitted = executions.admit(
            connection, invocation(spec_hash=spec_hash), run, dedupe_key=None, trace_id="0" * 32
        ).execution
        place = {"agent": "worker", "node": "main"}
        executions.start_attempt(connection, admitted.id, 1, run_id=run.run_id, **place)
        executions.waits.hold(
            connection,
            new_id(),
            admitted.id,
            1,
            tries=1,
            handle=handle,
            began_at=now,
            deadline_at=now + 86_400 * SECOND,
            poll_after=1.0,
            **place,
        )
        executions.waits.let_go(connection, admitted.id, spent=Usage(), model=None)
        executions.wait(connection, admitted.id, run_id=run.run_id)

    def continuations(self) -> int:
        with self.hub.database.reading() as connection:
            return len(self.hub.ticks.list(connection, trigger=CONTINUATION, limit=10_000))


@pytest.fixture
def waiting(database: Database, clock: ManualClock, server: RunsServer) -> Waiting:
    return Waiting(database, clock, server)


def test_thousands_of_handles_are_asked_about_in_batches(waiting: Waiting) -> None:
    waiting.open(1_500)
    waiting.clock.time += 2 * SECOND
    waiting.server.finished = True

    async def main() -> None:
        poller = waiting.poller()
        looked = await poller.look()
        assert (looked.taken, looked.calls, looked.arrived) == (1_500, 15, 1_500)
        assert (await poller.look()).taken == 0
        await poller.close()

    asyncio.run(main())
    assert waiting.server.calls == {"many": 15}
    assert waiting.continuations() == 1_500


def test_two_pollers_never_act_on_the_same(waiting: Waiting) -> None:
    waiting.open(400)
    waiting.clock.time += 2 * SECOND
    waiting.server.finished = True

    async def main() -> None:
        pollers = [waiting.poller() for _ in range(3)]
        looked = await asyncio.gather(*(poller.look() for poller in pollers))
        assert sum(each.taken for each in looked) == 400
        for poller in pollers:
            await poller.close()

    asyncio.run(main())
    assert waiting.continuations() == 400


def test_who_lost_his_lease_writes_nothing(waiting: Waiting) -> None:
    waiting.open(1)
    waiting.clock.time += 2 * SECOND
    waits = waiting.hub.executions.waits
    with waiting.hub.database.transaction() as connection:
        (slow,) = waits.take(connection, agents={"worker"}, lease=10)
        assert waits.take(connection, agents={"worker"}, lease=10) == []
    waiting.clock.time += 11 * SECOND
    with waiting.hub.database.transaction() as connection:
        (fast,) = waits.take(connection, agents={"worker"}, lease=10)
        assert fast.fence == slow.fence + 1
        assert waits.arrive(connection, slow, {"events": []}) is False
        assert waits.look_again(connection, slow, None) is False
        assert waits.arrive(connection, fast, {"events": []}) is True
        assert waits.take(connection, agents=set(), lease=10) != []


def test_a_node_that_fails_is_left_alone_and_tried_with_one_call(waiting: Waiting) -> None:
    waiting.open(500)
    waiting.server.status = 503

    async def main() -> None:
        poller, calls = waiting.poller(), 0
        for _ in range(60):
            waiting.clock.time += 2 * SECOND
            calls += (await poller.look()).calls
        # Five at first; then one call after each pause of 5, 10, 20, 40 s and so on.
        assert 5 <= calls <= 12
        with waiting.hub.database.reading() as connection:
            found = waiting.hub.executions.list(connection, limit=500)
            assert {each.status for each in found} == {Status.WAITING}
            waits = [waiting.hub.executions.waits.unsettled(connection, each.id) for each in found]
        assert all(wait is not None and wait.failures > 0 and "503" in (wait.last_error or "") for wait in waits)
        waiting.server.status, waiting.server.finished = 200, True
        for _ in range(200):
            waiting.clock.time += 10 * SECOND
            await poller.look()
            if waiting.continuations() == 500:
                break
        await poller.close()

    asyncio.run(main())
    assert waiting.continuations() == 500


def test_what_the_runtime_asks_for_is_waited_for(waiting: Waiting) -> None:
    waiting.open(1)
    waiting.server.retry_after = "600"

    async def main() -> None:
        poller = waiting.poller()
        for _ in range(30):
            waiting.clock.time += 10 * SECOND
            await poller.look()
        await poller.close()

    asyncio.run(main())
    assert waiting.server.calls["many"] == 1


def test_a_wait_of_an_agent_that_nobody_knows_here_is_left_to_others(waiting: Waiting) -> None:
    waiting.open(2)
    waiting.clock.time += 2 * SECOND
    stranger = waiting.hub.poller({"somebody": waiting.agent})
    assert asyncio.run(stranger.look()).taken == 0
