"""Limits over real processes, as a server sees them that counts."""

import asyncio
import signal

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.flow.limits import Limits
from agent_pipelines.store.database import Database
from agent_pipelines_tests.flow.serving import Server, ask, flow_over, most_in_any_window, start


def limit(database: Database, **values: object) -> None:
    with database.transaction() as connection:
        Limits(SystemClock()).set(connection, LimitSpec.model_validate(values), actor="test")


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


async def ended(*processes: asyncio.subprocess.Process) -> None:
    for process in processes:
        assert await process.wait() == 0


def test_an_application_never_exceeds_its_limit_and_another_is_not_affected(database: Database) -> None:
    limit(database, scope="application/a", concurrency=5)

    async def run() -> Server:
        async with Server().running() as server:
            of_a = [await start(server, url_of(database), "a", 0.02, 60, scopes=["application/a", "agent/w"]) for _ in range(3)]
            of_b = await start(server, url_of(database), "b", 0.02, 60, scopes=["application/b", "agent/w"])
            await ended(*of_a, of_b)
        return server

    server = asyncio.run(run())
    assert server.most["a"] == 5
    assert server.most["b"] > 5
    assert len(server.arrivals) == 240


def test_a_provider_sees_no_more_than_its_rate(database: Database) -> None:
    limit(database, scope="provider/p", requests="200/s")

    async def run() -> Server:
        async with Server().running() as server:
            await ended(*[await start(server, url_of(database), who, 0, 500, scopes=["provider/p"]) for who in ("a", "b")])
        return server

    server = asyncio.run(run())
    assert len(server.arrivals) == 1_000
    assert most_in_any_window([at for at, _ in server.arrivals], 1_000_000) <= 200


def test_the_permits_of_a_killed_process_come_back_when_its_lease_ends(database: Database) -> None:
    limit(database, scope="agent/w", concurrency=2)

    async def run() -> None:
        async with Server().running() as server:
            dying = await start(server, url_of(database), "dying", 3_600, 2, scopes=["agent/w"], lease=1.0)
            await server.until(2)
            flow = flow_over(database, lease=1.0)
            waiting = asyncio.ensure_future(ask(flow, server.port, "next", 0, ["agent/w"], "normal", "b"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            dying.kill()
            await dying.wait()
            await waiting
            await flow.close()

    asyncio.run(run())


def test_a_suspended_process_begins_nothing_when_its_permits_are_gone(database: Database) -> None:
    limit(database, scope="agent/w", concurrency=3)

    async def run() -> Server:
        async with Server().running() as server:
            given = {"scopes": ["agent/w"], "lease": 1.0}
            suspended = await start(server, url_of(database), "suspended", 0.01, 200, **given)
            await server.until(20)
            suspended.send_signal(signal.SIGSTOP)
            before = len(server.arrivals)
            other = await start(server, url_of(database), "other", 0.01, 400, **given)
            await server.until(before + 150)
            suspended.send_signal(signal.SIGCONT)
            await ended(other, suspended)
        return server

    server = asyncio.run(run())
    assert server.most_of_all == 3
    assert len(server.arrivals) == 600
