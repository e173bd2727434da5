"""How soon interactive work gets the slot of a batch that fills a limit.

    python benchmarks/preempt.py [--quick] [--arrivals 100] [--limit 8]

Two processes work on a batch without end, each with twice as many items in hand as the limit of their agent allows at once; a
third one has interactive requests at random instants (seeded). The agent is a server on loopback that counts what it works on.
Measured is from the arrival of an interactive request to its permit, once with short items and once with long ones that reach a
checkpoint every so often and go on where they stopped. Then the same batch without anything interactive, with and without the
limit: what flow control costs of CPU time and of a second. Prints a table, and as last line one JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.flow.limits import Limits
from agent_pipelines.flow.permits import Permits
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

SEED = 20_260_101
MUST, AIM = 2.0, 0.5  # seconds from arrival to slot freed, p99
SCOPE = "agent/worker"
ITEM, STEP, STEPS = 0.1, 0.1, 50  # seconds of a short item; of a step of a long one, and how many steps it has
INTERACTIVE = 0.02  # seconds
PROCESSES = 2


@dataclass
class Preempted:
    """What interactive requests waited, in seconds, and the most that the agent worked on at once."""

    items: str
    database: str
    arrivals: int
    p50: float
    p99: float
    max: float
    most_at_once: int
    batch_per_second: float
    steps_repeated: int


@dataclass
class Cost:
    """What a batch does in a second, and the CPU time of an item, in milliseconds."""

    limited: bool
    items_per_second: float
    cpu_ms: float


class Server:
    """Works for a while on each request, and counts."""

    def __init__(self) -> None:
        self.port = 0
        self.live = self.most = self.done = self.repeated = 0
        self._steps: set[tuple[str, int]] = set()
        self._advanced = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1_024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def at_work(self, done: int) -> None:
        """Wait until so much is done."""
        while self.done < done:
            self._advanced.clear()
            await self._advanced.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                name, step, seconds = json.loads(line)
                self.repeated += (name, step) in self._steps
                self._steps.add((name, step))
                self.live += 1
                self.most = max(self.most, self.live)
                await asyncio.sleep(seconds)
                self.live -= 1
                self.done += 1
                self._advanced.set()
                writer.write(b"done\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def flow_over(url: str) -> FlowControl:
    clock, database = SystemClock(), Database(url)
    limits = Limits(clock)
    return FlowControl(database, clock, limits, Permits(clock, limits))


async def request(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], name: str, step: int, seconds: float) -> None:
    reader, writer = connection
    writer.write(json.dumps([name, step, seconds]).encode() + b"\n")
    if not await reader.readline():
        raise ConnectionError("the server is gone")


async def batch(url: str, port: int, in_hand: int, steps: int, seconds: float) -> None:
    """One process of the batch: works on items until its input ends."""
    flow = flow_over(url)
    done = 0
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))

    async def lane(number: int) -> None:
        nonlocal done
        connection = await asyncio.open_connection("127.0.0.1", port)
        item = 0
        while not over.done():
            item += 1
            permit = await flow.acquire([SCOPE], application="batch", priority_class="batch")
            try:
                for step in range(steps):
                    if step:
                        await flow.boundary(permit)
                    await request(connection, f"{os.getpid()}/{number}/{item}", step, seconds)
                    done += 1
                    if over.done():
                        break
            finally:
                permit.release()
        connection[1].close()

    began, cpu = time.time(), time.process_time()
    await asyncio.gather(*(lane(number) for number in range(in_hand)))
    await flow.close()
    print(json.dumps([done, time.time() - began, time.process_time() - cpu]))


async def begin(*given: object) -> asyncio.subprocess.Process:
    command = (sys.executable, __file__, "--batch", *map(str, given))
    return await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)


async def result_of(process: asyncio.subprocess.Process) -> tuple[int, float, float]:
    out, _ = await process.communicate(b"")
    done, seconds, cpu = json.loads(out.splitlines()[-1])
    return done, seconds, cpu


def limit_to(url: str, concurrency: int | None) -> None:
    database, limits = Database(url), Limits(SystemClock())
    migrate(database)
    with database.transaction() as connection:
        if concurrency is None:
            limits.clear(connection, SCOPE)
        else:
            limits.set(connection, LimitSpec(scope=SCOPE, concurrency=concurrency), actor="benchmark")
    database.close()


async def preempt(url: str, arrivals: int, limit: int, *, steps: int, seconds: float) -> Preempted:
    limit_to(url, limit)
    chance, waited = random.Random(SEED), list[float]()
    gaps = [chance.uniform(0.1, 0.7) for _ in range(arrivals)]
    server = Server()
    async with server.running():
        given = (url, server.port, 2 * limit, steps, seconds)
        processes = [await begin(*given) for _ in range(PROCESSES)]
        await server.at_work(PROCESSES * 2 * limit)
        flow = flow_over(url)
        began, before = time.time(), server.done

        async def arrive(number: int) -> None:
            connection = await asyncio.open_connection("127.0.0.1", server.port)
            asked = time.perf_counter()
            permit = await flow.acquire([SCOPE], application="people", priority_class="interactive")
            waited.append(time.perf_counter() - asked)
            await request(connection, "interactive", number, INTERACTIVE)
            permit.release()
            connection[1].close()

        running: list[asyncio.Task[None]] = []
        for number, gap in enumerate(gaps):
            await asyncio.sleep(gap)
            running.append(asyncio.create_task(arrive(number)))
        await asyncio.gather(*running)
        rate = (server.done - before - arrivals) / (time.time() - began)
        await flow.close()
        for process in processes:
            await result_of(process)
    name = "short" if steps == 1 else "long, with checkpoints"
    kind = url.partition(":")[0].partition("+")[0]
    ordered = sorted(waited)
    spread = (ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], ordered[-1])
    return Preempted(name, kind, arrivals, *spread, server.most, rate, server.repeated)


async def cost(url: str, limit: int | None, seconds: float) -> Cost:
    limit_to(url, limit)
    server = Server()
    async with server.running():
        given = (url, server.port, 25 if limit is None else limit, 1, 0.05)
        processes = [await begin(*given) for _ in range(PROCESSES)]
        await server.at_work(100)
        await asyncio.sleep(seconds)
        results = [await result_of(each) for each in processes]
    done = sum(each[0] for each in results)
    elapsed = max(each[1] for each in results)
    return Cost(limit is not None, done / elapsed, 1_000 * sum(each[2] for each in results) / done)


def main() -> None:
    if sys.argv[1:2] == ["--batch"]:
        url, port, in_hand, steps, seconds = sys.argv[2:]
        asyncio.run(batch(url, int(port), int(in_hand), int(steps), float(seconds)))
        return
    from _deployment import load, postgres, workplace  # Dagster with them, which the processes of the batch need not load

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 arrivals")
    parser.add_argument("--arrivals", type=int, default=100)
    parser.add_argument("--limit", type=int, default=8)
    options = parser.parse_args()
    arrivals = 10 if options.quick else options.arrivals
    with workplace() as directory, postgres() as server:
        url = server.new_database()
        found = [
            asyncio.run(preempt(of, arrivals, options.limit, steps=steps, seconds=seconds))
            for of in (url, f"sqlite:///{directory}/agent_pipelines.db")
            for steps, seconds in ((1, ITEM), (STEPS, STEP))
        ]
        costs = [asyncio.run(cost(url, limit, 4 if options.quick else 10)) for limit in (None, 50)]
    print(f"{'arrival to permit, seconds':40}{'p50':>8}{'p99':>8}{'max':>8}{'at once':>9}{'steps/s':>9}")
    for each in found:
        name = f"{each.items}, {each.database}"
        print(f"{name:40}{each.p50:>8.3f}{each.p99:>8.3f}{each.max:>8.3f}{each.most_at_once:>9}{each.batch_per_second:>9.0f}")
    print(f"{'50 items of 50 ms in flight':40}{'items/s':>8}{'CPU ms':>8}  {load()}")
    for each in costs:
        print(f"{'limited' if each.limited else 'not limited':40}{each.items_per_second:>8.0f}{each.cpu_ms:>8.2f}")
    is_held = all(each.most_at_once <= options.limit and each.steps_repeated == 0 for each in found)
    slowest = max(each.p99 for each in found)
    result = {
        "preempted": [asdict(each) for each in found],
        "cost": [asdict(each) for each in costs],
        "must": {"p99": MUST, "at_once": options.limit, "steps_repeated": 0},
        "aim": {"p99": AIM},
        "must_met": is_held and slowest <= MUST,
        "aim_met": is_held and slowest <= AIM,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
