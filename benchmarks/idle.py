"""What a deployment costs that waits: CPU share and memory with many registered tasks and nothing due.

    python benchmarks/idle.py [--quick] [--tasks 10000] [--seconds 60]

Measures the whole stack (code server, daemon, web server and what they start) over `--seconds`, after it has settled; beside it,
one after the other, stock `dagster dev` with one job and one sensor. Both on PostgreSQL, the server that AGENT_PIPELINES_TEST_DSN
names or that the test dependencies bring; the CPU share of the server is told apart, that of one processor is 100 %. Memory is
that of all processes together, pages that they share counted once where the system tells (PSS). Prints a table, and as last line
one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import sqlalchemy as sa
import yaml
from _agent import PROMPT
from _deployment import AGENT, Deployment, load, postgres, workplace
from _meter import Meter, ServerMeter
from sqlalchemy import exc

AIM_CPU = 2.0  # per cent of a processor
SETTLING = 150.0  # seconds; what was just registered is read again for two minutes

STOCK = """\
import dagster as dg


@dg.op
def nothing() -> None: ...


@dg.job
def job() -> None:
    nothing()


@dg.sensor(job=job, default_status=dg.DefaultSensorStatus.RUNNING)
def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    return dg.SkipReason("nothing to do")


defs = dg.Definitions(jobs=[job], sensors=[sensor])
"""


@dataclass
class Figures:
    """What one deployment came to."""

    cpu: float
    cpu_by_role: dict[str, float]
    server_cpu: float | None
    megabytes: float
    megabytes_by_role: dict[str, float]
    counted_as: str
    load: str


def settle_and_measure(meter: Meter, server: ServerMeter, settling: float, seconds: float) -> Figures:
    time.sleep(settling)
    meter.start()
    server.start()
    began = time.perf_counter()
    time.sleep(seconds)
    cpu, server_cpu = meter.cpu(), server.cpu()
    wall = time.perf_counter() - began
    megabytes, kind = meter.memory()
    return Figures(
        cpu=100 * sum(cpu.values()) / wall,
        cpu_by_role={role: 100 * used / wall for role, used in sorted(cpu.items())},
        server_cpu=None if server_cpu is None else 100 * server_cpu / wall,
        megabytes=sum(megabytes.values()),
        megabytes_by_role=dict(sorted(megabytes.items())),
        counted_as=kind,
        load=load(),
    )


@contextmanager
def ours(directory: Path, url: str, tasks: int) -> Iterator[Meter]:
    directory.mkdir()
    deployment = Deployment(directory, agent_url="http://127.0.0.1:9/v1", url=url)
    with deployment.running():
        took = deployment.register(
            {
                "name": f"t{number:05}",
                "application": "many",
                "intent": "Wait for the new year",
                "agent": AGENT,
                "prompt": PROMPT,
                "triggers": [{"kind": "cron", "cron": f"{number % 60} {number % 24} 1 1 *", "timezone": "UTC"}],
            }
            for number in range(tasks)
        )
        print(f"  {tasks} tasks registered in {took:.1f} s", flush=True)
        yield deployment.meter


@contextmanager
def stock(directory: Path, url: str) -> Iterator[Meter]:
    home = directory / "home"
    home.mkdir(parents=True)
    settings = {"telemetry": {"enabled": False}, "storage": {"postgres": {"postgres_url": url}}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    (directory / "definitions.py").write_text(STOCK)
    command = [sys.executable, "-m", "dagster", "dev", "-f", "definitions.py", "-p", "0", "--log-level", "warning"]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    log = (directory / "log").open("wb")
    with log, Meter(home) as meter:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _until_it_evaluates(process, url, directory / "log")
            yield meter
        finally:
            left = meter.processes()
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.terminate()
            for each in psutil.wait_procs(left, 15.0)[1]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def _until_it_evaluates(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    engine = sa.create_engine(url)
    while process.poll() is None:
        with suppress(exc.ProgrammingError), engine.connect() as connection:
            if connection.exec_driver_sql("SELECT count(*) FROM job_ticks").scalar_one():
                engine.dispose()
                return
        time.sleep(1.0)
    raise SystemExit(f"dagster dev ended with exit code {process.returncode}:\n{log.read_text()[-2_000:]}")


def _print(name: str, each: Figures) -> None:
    server = "" if each.server_cpu is None else f"{each.server_cpu:.2f}"
    print(f"{name:16}{each.cpu:>8.2f}{server:>12}{each.megabytes:>10.0f}  {each.counted_as}; {each.load}")
    roles = (f"{role} {used:.2f} %, {each.megabytes_by_role.get(role, 0):.0f} MB" for role, used in each.cpu_by_role.items())
    print(f"{'':16}{'; '.join(roles)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 tasks, ten seconds")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    tasks, seconds, settling = (500, 10.0, 5.0) if options.quick else (options.tasks, options.seconds, SETTLING)
    figures: dict[str, Figures] = {}
    with workplace() as directory, postgres() as server:
        print("agent-pipelines", flush=True)
        with ours(directory / "ours", server.new_database(), tasks) as meter:
            figures["agent-pipelines"] = settle_and_measure(meter, server.meter(), settling, seconds)
        print("stock dagster dev", flush=True)
        with stock(directory / "stock", server.new_database()) as meter:
            figures["dagster dev"] = settle_and_measure(meter, server.meter(), settling, seconds)
    print(f"{'':16}{'CPU %':>8}{'server %':>12}{'MB':>10}")
    for name, each in figures.items():
        _print(name, each)
    mine, theirs = figures["agent-pipelines"], figures["dagster dev"]
    result = {
        "figures": {name: asdict(each) for name, each in figures.items()},
        "tasks": tasks,
        "must": {"cpu": theirs.cpu, "megabytes": theirs.megabytes},
        "aim": {"cpu": AIM_CPU},
        "must_met": mine.cpu <= theirs.cpu and mine.megabytes <= theirs.megabytes,
        "aim_met": mine.cpu <= AIM_CPU and mine.megabytes <= theirs.megabytes,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
