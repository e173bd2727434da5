"""What the record of one execution costs: CPU and wall time of the runner around an agent that answers at once.

    python benchmarks/execution_overhead.py [--executions 300]

Measures SQLite, and PostgreSQL on the server that AGENT_PIPELINES_TEST_DSN names or that the test dependencies bring. The ticks
are claimed before, as by whatever makes an execution due. Prints a table, and as last line one JSON object: the figures, and
whether an execution stays within what it may cost on PostgreSQL with 50 in flight. CPU time is that of this process; on a machine
that has other work, or whose processor is shared, it is more.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import sqlalchemy as sa

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.event import AgentEvent, Final, Usage, UsageReport
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

MUST, AIM = 4.0, 2.5  # CPU ms of an execution
GOVERNING = "PostgreSQL, 50 in flight"

SPEC = TaskSpec(name="job", intent="Answer", agent="instant", prompt="Say something about {{ item }}")


class Instant(Runtime[RuntimeConfig]):
    kind = "instant"
    config_type = RuntimeConfig
    capabilities = Capabilities()

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        yield UsageReport(usage=Usage(input_tokens=10, output_tokens=5, cost_usd=0.0, requests=1))
        yield Final(text="something", finish_reason="stop")


def invocation(number: int) -> Invocation:
    now = SystemClock().now()
    return Invocation(
        task="job",
        spec_hash="",
        trigger="on_demand",
        origin=Origin.ON_DEMAND,
        occurrence=new_id(),
        due_at=now,
        logical_at=now,
        item=str(number),
    )


def measure(url: str, executions: int, in_flight: int) -> dict[str, float]:
    database = Database(url)
    migrate(database)
    hub = Hub(database)
    agent = Agent("instant", [Node("n1", Instant(RuntimeConfig()))])

    def claimed() -> list[Invocation]:
        due = [invocation(number) for number in range(executions)]
        with database.transaction() as connection:
            for one in due:
                tick = (one.task_key, one.trigger, one.occurrence)
                hub.ticks.claim(connection, *tick, origin=one.origin, due_at=one.due_at)
        return due

    async def work(due: list[Invocation]) -> None:
        slots = asyncio.Semaphore(in_flight)

        async def execute(one: Invocation) -> None:
            async with slots:
                result = await hub.runner.run(one, SPEC, agent, run=RunRef(run_id=new_id()))
                assert result.status == "succeeded", result

        await asyncio.gather(*map(execute, due))

    asyncio.run(work(claimed()))  # warm: pools, statement caches
    due = claimed()
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(work(due))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    database.close()
    return {"cpu_ms": cpu / executions * 1_000, "wall_ms": wall / executions * 1_000, "per_second": executions / wall}


def postgres_url() -> tuple[str, object]:
    server = None
    dsn = os.environ.get("AGENT_PIPELINES_TEST_DSN")
    if dsn is None:
        from agent_pipelines_tests.postgres import PostgresServer

        server = PostgresServer()
        dsn = server.dsn
    name = f"overhead_{os.getpid()}"
    engine = sa.create_engine(dsn, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(dsn).set(database=name).render_as_string(hide_password=False), server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=300)
    count = parser.parse_args().executions
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        url, server = postgres_url()
        try:
            for name, place in (("SQLite", f"sqlite:///{Path(directory) / 'o.db'}"), ("PostgreSQL", url)):
                for in_flight in (1, 50):
                    figures[f"{name}, {in_flight} in flight"] = measure(place, count, in_flight)
        finally:
            if server is not None:
                server.stop()  # type: ignore[attr-defined]
    print(f"{'':28}{'CPU ms':>10}{'wall ms':>10}{'per second':>12}")
    for name, row in figures.items():
        print(f"{name:28}{row['cpu_ms']:10.2f}{row['wall_ms']:10.2f}{row['per_second']:12.0f}")
    cost = figures[GOVERNING]["cpu_ms"]
    rounded = {name: {key: round(value, 2) for key, value in row.items()} for name, row in figures.items()}
    print(json.dumps({"figures": rounded, "must": MUST, "aim": AIM, "must_met": cost <= MUST, "aim_met": cost <= AIM}))


if __name__ == "__main__":
    main()
