"""What a tool call costs late in a long execution, against early in it: bytes and CPU time of one more call.

    python benchmarks/journal.py [--calls 10000]

One execution of an agent that calls a tool again and again. Each call is an effect: its intent is durable before the tool is
called and its receipt after it, and the journal holds the call and the result. Measured in stretches of equal length that end at
call 10, 1,000 and 10,000, on SQLite, and on PostgreSQL on the server that AGENT_PIPELINES_TEST_DSN names or that the test
dependencies bring. A journal that stored the conversation again at every call would cost ten times as much at each further step.
CPU time is that of this process. Bytes are the growth of what the rows hold, not of files, which grow in pages.

Beside it, in the same run: an agent that stores its whole conversation at every call, as checkpoints of the whole state do.
Prints a table, and as last line one JSON object.
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
from _deployment import postgres
from pydantic import JsonValue

from agent_pipelines import effects
from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.event import AgentEvent, Checkpoint, Final, ToolCall, ToolResult
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.python import PythonRuntime
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

WINDOW = 10  # calls of a stretch; each figure is the median of the stretches around a call
AROUND = 20  # stretches
MUST, AIM = 1.2, 1.05
QUESTION: JsonValue = {"city": "Bern", "day": "2026-02-07", "unit": "celsius"}
WARMING = "warming"
ANSWER = {"high": 7, "low": -1, "sky": "fog in the morning, sun later", "source": "station 06631"}


@dataclass(frozen=True)
class At:
    """What one call cost around a number of calls."""

    cpu_ms: float
    bytes: float


class Meter:
    """CPU time and stored bytes at every `WINDOW`-th call of one execution."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.cpu: list[float] = []
        self.counts: list[int] = []

    def call(self, number: int) -> None:
        if number % WINDOW == 0:
            self.cpu.append(time.process_time())
            self.counts.append(number)

    def at(self, number: int) -> float:
        """CPU milliseconds of a call around the number-th: the median of stretches, since a busy machine disturbs single ones."""
        spent = [
            (later - before) / WINDOW * 1_000
            for count, before, later in zip(self.counts, self.cpu, self.cpu[1:], strict=False)
            if number - WINDOW * AROUND <= count < number + WINDOW
        ]
        return sorted(spent)[len(spent) // 2]


def invocation(item: str | None = None) -> Invocation:
    now = SystemClock().now()
    return Invocation(
        task="caller",
        spec_hash="",
        trigger="on_demand",
        origin=Origin.ON_DEMAND,
        occurrence=new_id(),
        due_at=now,
        logical_at=now,
        item=item,
    )


def measure(url: str, calls: int, *, whole_state: bool) -> tuple[dict[int, At], int]:
    """Figures around each milestone, and the rows that were written."""
    database = Database(url)
    migrate(database)
    hub = Hub(database)
    meter = Meter(hub)

    async def tool() -> dict[str, object]:
        return dict(ANSWER)

    async def caller(request: Invocation) -> AsyncGenerator[AgentEvent, None]:
        conversation: list[JsonValue] = []
        warms = request.item == WARMING
        for number in range(WINDOW * AROUND if warms else calls + 1):
            if not warms:
                meter.call(number)
            name = f"weather/{number}"
            yield ToolCall(id=name, name="weather", arguments=QUESTION)
            result = await effects.once(name, tool, name="weather", request=QUESTION)
            yield ToolResult(id=name, name="weather", output=result)
            if whole_state:
                conversation += [QUESTION, result]
                yield Checkpoint(name=name, data={"conversation": conversation})
        yield Final(text="done")

    spec = TaskSpec(name="caller", intent="Call a tool", agent="caller", timeout={"attempt": 3_000, "total": 3_000})  # type: ignore[arg-type]
    agent = Agent("caller", [Node("n", PythonRuntime.of(caller))])

    async def work() -> str:
        # Pools and statements are made by another execution, whose calls are not counted.
        await hub.runner.run(invocation(WARMING), spec, agent, run=RunRef(run_id=new_id()))
        gc.collect()
        return (await hub.runner.run(invocation(), spec, agent, run=RunRef(run_id=new_id()))).execution_id

    execution_id = asyncio.run(work())
    milestones = [number for number in (10, 1_000, 10_000) if number <= calls]
    with database.reading() as connection:
        rows = connection.execute(
            sa.text("SELECT count(*) FROM events WHERE execution_id = :of"), {"of": execution_id}
        ).scalar_one()
        rows += connection.execute(
            sa.text("SELECT count(*) FROM effects WHERE execution_id = :of"), {"of": execution_id}
        ).scalar_one()
        found = {
            number: At(meter.at(max(number, WINDOW * AROUND)), stored(connection, execution_id, number, whole_state))
            for number in milestones
        }
    database.close()
    return found, rows


def stored(connection: sa.Connection, execution_id: str, number: int, whole_state: bool) -> float:
    """Bytes of what the rows of the ten calls up to `number` hold, each."""
    each = 3 if whole_state else 2
    parts = ("execution_id", "seq", "attempt", "at", "kind", "body")
    span = {"of": execution_id, "first": each * max(0, number - WINDOW) + 1, "last": each * number}
    query = f"SELECT sum({lengths(parts)}) FROM events WHERE execution_id = :of AND seq BETWEEN :first AND :last"
    events = connection.execute(sa.text(query), span).scalar_one()
    parts = ("id", "key", "name", "execution_id", "run_id", "status", "request", "receipt", "intended_at", "ended_at")
    inner = "SELECT * FROM effects WHERE execution_id = :of ORDER BY seq LIMIT :count OFFSET :before"
    span = {"of": execution_id, "count": WINDOW, "before": max(0, number - WINDOW)}
    kept = connection.execute(sa.text(f"SELECT sum({lengths(parts)}) FROM ({inner}) AS these"), span).scalar_one()
    return (events + kept) / WINDOW


def lengths(columns: tuple[str, ...]) -> str:
    return " + ".join(f"length(CAST({name} AS TEXT))" for name in columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    calls = parser.parse_args().calls
    figures: dict[str, dict[int, At]] = {}
    rows: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory, postgres() as server:
        for name, url, whole_state, count in (
            ("SQLite", f"sqlite:///{Path(directory) / 'journal.db'}", False, calls),
            ("PostgreSQL", server.new_database(), False, calls),
            # Its work grows with the square of the calls: 10,000 would take hours and gigabytes.
            ("whole state each call, SQLite", f"sqlite:///{Path(directory) / 'whole.db'}", True, min(calls, 1_000)),
        ):
            figures[name], rows[name] = measure(url, count, whole_state=whole_state)
    print(f"{'':32}{'call':>8}{'CPU ms':>10}{'bytes':>10}")
    for name, found in figures.items():
        for number, at in found.items():
            print(f"{name:32}{number:8}{at.cpu_ms:10.2f}{at.bytes:10.0f}")
    ratios = {}
    for name in ("SQLite", "PostgreSQL"):
        found = list(figures[name].values())
        ratios[name] = {
            "cpu": max(at.cpu_ms for at in found) / min(at.cpu_ms for at in found),
            "bytes": max(at.bytes for at in found) / min(at.bytes for at in found),
        }
    worst = max(value for each in ratios.values() for value in each.values())
    print(f"largest against smallest: {', '.join(f'{name} {each}' for name, each in ratios.items())}")
    told = {name: {str(number): asdict(at) for number, at in found.items()} for name, found in figures.items()}
    print(json.dumps({"figures": told, "ratios": ratios, "rows": rows, "must_met": worst <= MUST, "aim_met": worst <= AIM}))


if __name__ == "__main__":
    main()
