"""Many registered tasks due over one minute, through the whole stack: executions per second, and what each costs.

    python benchmarks/burst.py [--quick] [--tasks 10000] [--agent-ms 50]

The tasks are registered in one go, each due once, an equal share on each second of the minute. Their agent is an
HTTP endpoint on loopback in this process, which answers after `--agent-ms`. PostgreSQL, which waits for the disk, is the server
that AGENT_PIPELINES_TEST_DSN names or that the test dependencies bring; SQLite is measured beside it with a tenth of the tasks.

`per second` counts while there is work: between the due instant of a tick and its end. `CPU ms` is that of all our processes
from the end of the registration to the last execution (code server, daemon, web server, bursts with their start), by the number
of executions; that of PostgreSQL is told apart. Prints a table, the line of `tick audit`, and as last line one JSON object.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from _agent import PROMPT, Agent
from _deployment import AGENT, Deployment, load, postgres, quantile, workplace
from _meter import ServerMeter

from agent_pipelines.core.clock import isoformat
from agent_pipelines.store.window import Window

MUST_PER_SECOND, AIM_PER_SECOND = 60.0, 170.0
AIM_CPU_MS = 6.0
SECONDS = 60
PATIENCE = 600.0  # seconds for all to end


@dataclass
class Figures:
    """What one database came to."""

    tasks: int
    registration_seconds: float
    executions: int
    per_second: float
    cpu_ms: float
    cpu_ms_by_role: dict[str, float]
    server_cpu_ms: float | None
    lateness_p50: float
    lateness_p99: float
    verdicts: dict[str, int]
    open: int
    doubled: int
    books_close: bool
    load: str

    @property
    def is_complete(self) -> bool:
        """Whether each task was executed once, and has its verdict."""
        return (
            self.executions == self.tasks == self.verdicts.get("ran") and not self.open and not self.doubled and self.books_close
        )


def measure(directory: Path, agent: Agent, tasks: int, seconds: int, url: str | None, server: ServerMeter) -> Figures:
    directory.mkdir()
    deployment = Deployment(directory, agent_url=agent.url, url=url)
    with deployment.running():
        margin = 20.0 + tasks * 0.012
        begin = int(time.time() + margin)
        due = {f"t{number:05}": begin + number * seconds // tasks for number in range(tasks)}
        took = deployment.register(
            {
                "name": name,
                "application": "many",
                "intent": "Do one of many things",
                "agent": AGENT,
                "prompt": PROMPT,
                "triggers": [{"kind": "at", "at": isoformat(instant * 1_000_000)}],
            }
            for name, instant in due.items()
        )
        if time.time() > begin - 2:
            raise SystemExit(f"the registration of {tasks} tasks took {took:.0f} s, longer than the {margin:.0f} s there were")
        print(f"  {tasks} tasks registered in {took:.1f} s; the first is due in {begin - time.time():.0f} s", flush=True)
        deployment.meter.start()
        server.start()
        _wait(deployment, tasks, begin + seconds)
        cpu, server_cpu = deployment.meter.cpu(), server.cpu()
        busy = load()
        time.sleep(2.0)  # the audit leaves time to nobody
        said, closes = deployment.audit(isoformat((begin - 1) * 1_000_000))
        print("\n".join(f"  {line}" for line in said.splitlines()), flush=True)
        rows = _rows(deployment)
    lateness = [times[0] - due[task] for (task, _), times in agent.arrivals.of.items() if task in due]
    executions = len(rows)
    return Figures(
        tasks=tasks,
        registration_seconds=took,
        executions=executions,
        per_second=executions / _busy(rows),
        cpu_ms=sum(cpu.values()) / tasks * 1_000,
        cpu_ms_by_role={role: used / tasks * 1_000 for role, used in sorted(cpu.items())},
        server_cpu_ms=None if server_cpu is None or url is None else server_cpu / tasks * 1_000,
        lateness_p50=quantile(lateness, 0.5),
        lateness_p99=quantile(lateness, 0.99),
        verdicts=_verdicts(deployment),
        open=_open(deployment),
        doubled=agent.arrivals.doubled,
        books_close=closes,
        load=busy,
    )


def _wait(deployment: Deployment, tasks: int, last_due: float) -> None:
    deadline = last_due + PATIENCE
    time.sleep(max(0.0, last_due - time.time()))
    while time.time() < deadline:
        if (code := deployment.stack.poll()) is not None:
            raise SystemExit(f"the processes ended with exit code {code}:\n{deployment.stack.log_tail()}")
        if len(_rows(deployment)) >= tasks:
            return
        time.sleep(0.25)
    print(f"  not all ended within {PATIENCE:.0f} s", flush=True)


def _rows(deployment: Deployment) -> list[tuple[int, int]]:
    """Due instant and end of the executions that have ended."""
    with deployment.hub.database.reading() as connection:
        rows = deployment.hub.executions.rows(connection, ("due_at", "finished_at"), Window(application="many"))
    return [(due_at, finished_at) for due_at, finished_at in rows if finished_at is not None]


def _busy(rows: list[tuple[int, int]]) -> float:
    """Seconds in which something was due and had not ended."""
    total, until = 0, 0
    for due_at, finished_at in sorted(rows):
        total += max(0, finished_at - max(due_at, until))
        until = max(until, finished_at)
    return total / 1_000_000 or float("nan")


def _verdicts(deployment: Deployment) -> dict[str, int]:
    with deployment.hub.database.reading() as connection:
        rows = deployment.hub.ticks.rows(connection, ("verdict",), Window(application="many"))
    return dict(Counter(verdict for (verdict,) in rows if verdict is not None))


def _open(deployment: Deployment) -> int:
    with deployment.hub.database.reading() as connection:
        return len(deployment.hub.ticks.open(connection))


def _print(name: str, each: Figures) -> None:
    server = "" if each.server_cpu_ms is None else f"{each.server_cpu_ms:.2f}"
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in each.verdicts.items())
    print(
        f"{name:12}{each.tasks:>8}{each.per_second:>12.1f}{each.cpu_ms:>10.2f}{server:>12}"
        f"{each.lateness_p50:>10.2f}{each.lateness_p99:>10.2f}  {verdicts}, {each.open} open, {each.doubled} twice; {each.load}"
    )
    print(f"{'':12}CPU ms by process: {', '.join(f'{role} {used:.2f}' for role, used in each.cpu_ms_by_role.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 tasks due over five seconds, on PostgreSQL only")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--agent-ms", type=float, default=50.0)
    options = parser.parse_args()
    tasks, seconds = (500, 5) if options.quick else (options.tasks, SECONDS)
    figures: dict[str, Figures] = {}
    with workplace() as directory:
        with postgres() as server, Agent(options.agent_ms / 1_000) as agent:
            print("PostgreSQL", flush=True)
            url = server.new_database()
            figures["PostgreSQL"] = measure(directory / "postgresql", agent, tasks, seconds, url, server.meter())
        if not options.quick:
            print("SQLite", flush=True)
            with Agent(options.agent_ms / 1_000) as agent:
                figures["SQLite"] = measure(directory / "sqlite", agent, tasks // 10, seconds, None, ServerMeter(None))
    header = f"{'':12}{'tasks':>8}{'per second':>12}{'CPU ms':>10}{'server ms':>12}{'p50 s':>10}{'p99 s':>10}  verdicts"
    print(f"agent over HTTP, answers after {options.agent_ms:g} ms\n{header}")
    for name, each in figures.items():
        _print(name, each)
    governing = figures["PostgreSQL"]
    complete = all(each.is_complete for each in figures.values())
    result = {
        "figures": {name: asdict(each) for name, each in figures.items()},
        "agent_ms": options.agent_ms,
        "must": {"per_second": MUST_PER_SECOND, "every tick one verdict": True},
        "aim": {"per_second": AIM_PER_SECOND, "cpu_ms": AIM_CPU_MS},
        "must_met": complete and governing.per_second >= MUST_PER_SECOND,
        "aim_met": complete and governing.per_second >= AIM_PER_SECOND and governing.cpu_ms <= AIM_CPU_MS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
