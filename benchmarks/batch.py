"""A batch of many items against a bare loop of requests: items per second, the CPU of each, how it spreads, and memory.

    python benchmarks/batch.py [--quick] [--items 2000] [--agent-ms 50] [--in-flight 100] [--workers 2] [--only speed]

*Speed*: a batch, split before, is worked on by processes that share `--in-flight`, with the whole record on PostgreSQL; shards
are runs, so they are processes in real life too. Beside it, in the same run, asyncio and aiohttp send as many requests with the
same limit and keep nothing. The agent is an HTTP endpoint on loopback in a process of its own. All processes are started, and
have asked once, before anything is measured. CPU is that of our processes, by the number of items; PostgreSQL's is apart.
*Nodes*: 1,000 items on four stub nodes that take eight requests at once each, against the same on one of them. *Memory*: a
process that splits a file of 1,000,000 items, and one that works on its last shard, against a file of 10,000; the largest
resident memory of both. SQLite. Prints a table, and as last line one JSON object.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _deployment import load, postgres, workplace
from _meter import ServerMeter

from agent_pipelines.core.task import TaskSpec
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

HERE = Path(__file__).parent
MUST = {"share_of_bare": 0.3, "cpu_ms": 4.0, "four_nodes": 3.0, "memory": 1.2}
AIM = {"share_of_bare": 0.8, "cpu_ms": 2.0, "four_nodes": 3.9, "memory": 1.05}
CAPACITY = 8  # requests that a stub node takes at once
NODE_MS = 100.0


@dataclass
class Speed:
    """What the same number of requests took, kept and not kept."""

    items: int
    per_second: float
    bare_per_second: float
    share_of_bare: float
    cpu_ms: float
    bare_cpu_ms: float
    server_cpu_ms: float | None
    load: str


@dataclass
class Nodes:
    """Seconds on one node and on four."""

    items: int
    one: float
    four: float
    ratio: float


@dataclass
class Memory:
    """Largest resident memory, in megabytes."""

    small: dict[str, float]
    large: dict[str, float]
    ratio: float


@contextmanager
def stub(milliseconds: float, capacity: int = 0) -> Iterator[str]:
    """An endpoint; gives its port."""
    argv = [sys.executable, str(HERE / "_stub.py"), str(milliseconds), str(capacity)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def run(*parts: Sequence[str]) -> tuple[list[dict[str, Any]], float]:
    """Have processes do their parts, all from the same moment; returns what they say, and the seconds until the last ended."""
    argv = [[sys.executable, str(HERE / "_batch_worker.py"), *part] for part in parts]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) for each in argv
        ]
        for each in started:
            assert each.stdout is not None
            if each.stdout.readline().strip() != "ready":
                raise SystemExit("a process of the benchmark could not start")
        begun = time.perf_counter()
        for each in started:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        said = [json.loads(each.stdout.readline()) for each in started if each.stdout is not None]
        return said, time.perf_counter() - begun


def task(in_flight: int, shard_size: int) -> TaskSpec:
    batch = {"items": {"file": "items.jsonl"}, "key": "number", "shard_size": shard_size, "in_flight": in_flight}
    values = {"name": "summaries", "intent": "Summarise", "agent": "stub", "prompt": "Summarise invoice {{ item.number }}"}
    return TaskSpec.model_validate({**values, "batch": batch})


def write_items(directory: Path, count: int) -> None:
    directory.mkdir(exist_ok=True)
    with (directory / "items.jsonl").open("w") as file:
        file.writelines(f'{{"number": {number}, "customer": "customer {number % 97}"}}\n' for number in range(count))


def split(url: str, directory: Path, spec: TaskSpec) -> dict[str, Any]:
    database = Database(url)
    migrate(database)
    database.close()
    (said,), _ = run(("split", url, str(directory), spec.model_dump_json(by_alias=True)))
    return said


def work(url: str, directory: Path, spec: TaskSpec, batch: str, nodes: Sequence[str], shards: Sequence[Sequence[int]]) -> Any:
    parts = [
        ("work", url, str(directory), spec.model_dump_json(by_alias=True), batch, ",".join(nodes), ",".join(map(str, some)))
        for some in shards
    ]
    return run(*parts)


def measure_speed(
    directory: Path, url: str, items: int, milliseconds: float, in_flight: int, workers: int, meter: ServerMeter
) -> Speed:
    write_items(directory, items)
    spec = task(in_flight // workers, shard_size=-(-items // workers))
    with stub(milliseconds) as port:
        bare, bare_seconds = run(("bare", port, str(items), str(in_flight)))
        opened = split(url, directory, spec)
        meter.start()
        done, seconds = work(url, directory, spec, opened["batch"], [port], [[number] for number in range(workers)])
        server = meter.cpu()
    if sum(each["done"] for each in done) != items:
        raise SystemExit(f"not all of {items} items were done: {done}")
    return Speed(
        items=items,
        per_second=items / seconds,
        bare_per_second=items / bare_seconds,
        share_of_bare=bare_seconds / seconds,
        cpu_ms=sum(each["cpu"] for each in done) / items * 1_000,
        bare_cpu_ms=bare[0]["cpu"] / items * 1_000,
        server_cpu_ms=None if server is None else server / items * 1_000,
        load=load(),
    )


def measure_nodes(directory: Path, url: str, items: int) -> Nodes:
    """Time one batch on one node, then another on four; what is in flight is enough to keep all of them busy."""
    write_items(directory, items)
    spec = task(in_flight=16 * CAPACITY, shard_size=items)
    seconds: list[float] = []
    for count in (1, 4):
        with ExitStack() as stack:
            ports = [stack.enter_context(stub(NODE_MS, CAPACITY)) for _ in range(count)]
            opened = split(url, directory, spec)
            _, took = work(url, directory, spec, opened["batch"], ports, [[0]])
            seconds.append(took)
    return Nodes(items, seconds[0], seconds[1], seconds[0] / seconds[1])


def measure_memory(directory: Path, small: int, large: int) -> Memory:
    found: list[dict[str, float]] = []
    with stub(1.0) as port:
        for count in (small, large):
            place = directory / str(count)
            write_items(place, count)
            url, spec = f"sqlite:///{place / 'record.db'}", task(in_flight=20, shard_size=500)
            opened = split(url, place, spec)
            (worked,), _ = work(url, place, spec, opened["batch"], [port], [[opened["shards"] - 1]])
            found.append({"split": opened["megabytes"], "work": worked["megabytes"]})
    ratio = max(found[1][name] / found[0][name] for name in found[0])
    return Memory(found[0], found[1], ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 items, and 100,000 in the file of the memory figure")
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--agent-ms", type=float, default=50.0)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("speed", "nodes", "memory"))
    options = parser.parse_args()
    items, large = (1_000, 100_000) if options.quick else (options.items, 1_000_000)
    wanted = (options.only,) if options.only else ("speed", "nodes", "memory")
    figures: dict[str, Any] = {}
    with workplace() as directory, postgres() as server:
        if "speed" in wanted:
            url = server.new_database()
            measured = (options.agent_ms, options.in_flight, options.workers, server.meter())
            speed = measure_speed(directory / "speed", url, items, *measured)
            figures["speed"] = asdict(speed)
        if "nodes" in wanted:
            figures["nodes"] = asdict(measure_nodes(directory / "nodes", server.new_database(), 1_000))
        if "memory" in wanted:
            figures["memory"] = asdict(measure_memory(directory, 10_000, large))
    found = {
        "share_of_bare": figures.get("speed", {}).get("share_of_bare"),
        "cpu_ms": figures.get("speed", {}).get("cpu_ms"),
        "four_nodes": figures.get("nodes", {}).get("ratio"),
        "memory": figures.get("memory", {}).get("ratio"),
    }
    for name, figure in figures.items():
        print(f"{name:10}" + ", ".join(f"{key} {_short(value)}" for key, value in figure.items()))
    print(f"{'':16}{'found':>10}{'must':>10}{'aim':>10}")
    for name, value in found.items():
        print(f"{name:16}{'-' if value is None else f'{value:.2f}':>10}{MUST[name]:>10}{AIM[name]:>10}")
    print(json.dumps({"figures": figures, "must": MUST, "aim": AIM, "must_met": _met(found, MUST), "aim_met": _met(found, AIM)}))


def _met(found: dict[str, float | None], bounds: dict[str, float]) -> bool:
    """Whether all that was measured is within its bound; shares and ratios of nodes are at least, the others at most so much."""
    at_least = {"share_of_bare", "four_nodes"}
    measured = {name: value for name, value in found.items() if value is not None}
    return all(value >= bounds[name] if name in at_least else value <= bounds[name] for name, value in measured.items())


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "/".join(_short(each) for each in value.values())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
