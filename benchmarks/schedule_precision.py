"""How late an agent is asked: a task due every five seconds, and many tasks due in the same second.

    python benchmarks/schedule_precision.py [--quick] [--minutes 10] [--tasks 500]

Through the whole stack on PostgreSQL (the server that AGENT_PIPELINES_TEST_DSN names or that the test dependencies bring, which
waits for the disk). The agent is an HTTP endpoint on loopback in this process: lateness is the arrival of its request less the
due instant. It answers the task at once, and the many after 50 ms.

Beside it, in the same run: bare asyncio, which sleeps until the instant and asks the same endpoint with the same HTTP client,
and keeps nothing. Stock Dagster has no seconds: its schedules are looked at once a minute.

`decision` is the time that the timekeeper needs to claim what is due, by itself on a copy of the situation: 200 looks at the
many tasks with nothing due, and one look each second with all of them due. Prints a table, and as last line one JSON object.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from _agent import PROMPT, Agent
from _deployment import AGENT, Deployment, Postgres, load, postgres, quantile, workplace
from httpx_aiohttp import HttpxAiohttpClient

from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Interval
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

EVERY = 5  # seconds
ANSWER = 0.05  # seconds
MUST_EVERY, AIM_EVERY = 1.0, 0.25  # seconds of lateness, p99
MUST_MANY, AIM_MANY = 4.0, 1.0

TICKING = f"""\
type: agent_pipelines.components.AgentTask
attributes:
  intent: Look every few seconds
  agent: {AGENT}
  lane: burst
  prompt: "{PROMPT}"
  triggers:
    - kind: interval
      every: {EVERY}s
"""


@dataclass
class Figures:
    """How late requests were, in seconds, and whether all of them came."""

    expected: int
    came: int
    doubled: int
    p50: float
    p99: float
    max: float
    load: str

    @classmethod
    def of(cls, lateness: Sequence[float], expected: int, doubled: int) -> "Figures":
        return cls(
            expected=expected,
            came=len(lateness),
            doubled=doubled,
            p50=quantile(lateness, 0.5),
            p99=quantile(lateness, 0.99),
            max=max(lateness, default=float("nan")),
            load=load(),
        )

    @property
    def is_complete(self) -> bool:
        """Whether each tick led to one request."""
        return self.came == self.expected and not self.doubled


def every_few_seconds(directory: Path, server: Postgres, seconds: float) -> Figures:
    directory.mkdir()
    with Agent(0.0) as agent:
        deployment = Deployment(directory, agent_url=agent.url, tasks={"ticking": TICKING}, url=server.new_database())
        with deployment.running():
            _wait_for(deployment, agent, 3)
            begin = int(time.time() // EVERY + 1) * EVERY
            due = [begin + number * EVERY for number in range(max(1, round(seconds / EVERY)))]
            time.sleep(max(0.0, due[-1] + EVERY - time.time()))
        times = {instant: agent.arrivals.of.get(("ticking", isoformat(instant * 1_000_000)), []) for instant in due}
    lateness = [found[0] - instant for instant, found in times.items() if found]
    return Figures.of(lateness, len(due), sum(len(found) > 1 for found in times.values()))


def in_the_same_second(directory: Path, server: Postgres, tasks: int) -> Figures:
    directory.mkdir()
    with Agent(ANSWER) as agent:
        deployment = Deployment(directory, agent_url=agent.url, url=server.new_database())
        with deployment.running():
            due = int(time.time() + 30 + tasks * 0.02)
            took = deployment.register(
                {
                    "name": f"t{number:05}",
                    "application": "many",
                    "intent": "Do one of many things",
                    "agent": AGENT,
                    "prompt": PROMPT,
                    "triggers": [{"kind": "at", "at": isoformat(due * 1_000_000)}],
                }
                for number in range(tasks)
            )
            print(f"  {tasks} tasks registered in {took:.1f} s; they are due in {due - time.time():.0f} s", flush=True)
            time.sleep(max(0.0, due - time.time()))
            _wait_for(deployment, agent, tasks)
            time.sleep(1.0)  # for a second request, which should not come
    return Figures.of([times[0] - due for times in agent.arrivals.of.values()], tasks, agent.arrivals.doubled)


def bare_asyncio(tasks: int) -> Figures:
    with Agent(ANSWER) as agent:
        due = int(time.time()) + 3

        async def ask(client: httpx.AsyncClient, number: int) -> None:
            await asyncio.sleep(due - time.time())
            message = {"role": "user", "content": f"t{number:05} {isoformat(due * 1_000_000)}"}
            answer = await client.post(f"{agent.url}/chat/completions", json={"model": "none", "messages": [message]})
            answer.raise_for_status()

        async def ask_all() -> None:
            limits = httpx.Limits(max_connections=0)
            async with HttpxAiohttpClient(timeout=60.0, limits=limits) as client:
                await asyncio.gather(*(ask(client, number) for number in range(tasks)))

        asyncio.run(ask_all())
    return Figures.of([times[0] - due for times in agent.arrivals.of.values()], tasks, agent.arrivals.doubled)


def decisions(server: Postgres, tasks: int, looks: int) -> dict[str, float]:
    """Milliseconds of a look, p99: with nothing due, and with all due."""
    database = Database(server.new_database())
    migrate(database)
    clock = ManualClock()
    hub = Hub(database, clock)
    every = Interval(every=Duration(EVERY), overlap="parallel")
    spec = TaskSpec(name="x", application="many", intent="Tick", agent=AGENT, prompt=PROMPT, triggers=(every,))
    specs = [spec.model_copy(update={"name": f"t{number:05}"}) for number in range(tasks)]
    hub.registry.register_many(specs, Declared(agents=(AGENT,)), actor="benchmark")
    timekeeper = Timekeeper(database, hub.triggers, hub.ticks, hub.executions, clock)

    def look() -> tuple[float, int]:
        began = time.perf_counter()
        claimed = len(timekeeper.look().claimed)
        return (time.perf_counter() - began) * 1_000, claimed

    look()
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(looks):
        idle += [look()[0] for _ in range(10)]
        clock.time += EVERY * 1_000_000
        milliseconds, claimed = look()
        assert claimed == tasks, claimed
        busy.append(milliseconds)
    database.close()
    return {"nothing due": quantile(idle, 0.99), f"{tasks} due": quantile(busy, 0.99)}


def _wait_for(deployment: Deployment, agent: Agent, count: int, patience: float = 180.0) -> None:
    deadline = time.time() + patience
    while len(agent.arrivals.of) < count and time.time() < deadline:
        if (code := deployment.stack.poll()) is not None:
            raise SystemExit(f"the processes ended with exit code {code}:\n{deployment.stack.log_tail()}")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute of the one task, 100 tasks in the same second")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tasks", type=int, default=500)
    options = parser.parse_args()
    minutes, tasks, looks = (0.5, 100, 3) if options.quick else (options.minutes, options.tasks, 20)
    with workplace() as directory, postgres() as server:
        print(f"a task due every {EVERY} s, {minutes:g} minutes", flush=True)
        ticking = every_few_seconds(directory / "every", server, minutes * 60)
        print(f"{tasks} tasks due in the same second", flush=True)
        many = in_the_same_second(directory / "many", server, tasks)
        bare = bare_asyncio(tasks)
        decision = decisions(server, tasks, looks)
    rows = {f"due every {EVERY} s": ticking, f"{tasks} in one second": many, f"{tasks} in one second, bare asyncio": bare}
    print(f"{'lateness in seconds':36}{'came':>12}{'twice':>8}{'p50':>9}{'p99':>9}{'max':>9}")
    for name, each in rows.items():
        came = f"{each.came} of {each.expected}"
        print(f"{name:36}{came:>12}{each.doubled:>8}{each.p50:>9.3f}{each.p99:>9.3f}{each.max:>9.3f}  {each.load}")
    print(f"{'either, stock Dagster schedules':36}{'n/a':>12}  looked at once a minute, no seconds")
    words = ", ".join(f"{milliseconds:.1f} ms with {what}" for what, milliseconds in decision.items())
    print(f"decision of the timekeeper, p99: {words}")
    complete = ticking.is_complete and many.is_complete
    result = {
        "figures": {name: asdict(each) for name, each in rows.items()},
        "decision_ms": decision,
        "must": {"every": MUST_EVERY, "many": MUST_MANY},
        "aim": {"every": AIM_EVERY, "many": AIM_MANY},
        "must_met": complete and ticking.p99 <= MUST_EVERY and many.p99 <= MUST_MANY,
        "aim_met": complete and ticking.p99 <= AIM_EVERY and many.p99 <= AIM_MANY,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
