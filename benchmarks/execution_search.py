"""How long a page of the list of executions takes with a million of them in the record.

    python benchmarks/execution_search.py [--rows 1000000] [--url sqlite:////tmp/x.db | postgresql://...]

Fills fresh databases with executions of twenty tasks over sixty days, as the ledger leaves them, then asks for pages by task,
status, time, words and combinations of them: the newest page, and one deep in the result. Measures SQLite always, and
PostgreSQL in a database of its own where AGENT_PIPELINES_TEST_DSN names a server. With `--url` only that database is measured;
its rows stay there and are not written again the next time. Prints seconds, of the first time a question is asked and the
median of three, and as last line one JSON object.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent_pipelines.core.clock import Microseconds, SystemClock
from agent_pipelines.core.execution import Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.ledger.search import searchable
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines.store.tables import execution_texts, executions

DAY = 86_400_000_000
DAYS = 60
BATCH = 5_000
LIMIT_SECONDS = 1.0
TASKS = [(application, f"task_{number}") for application in ("sales", "finance", "support", "review") for number in range(5)]
STATUSES = [Status.SUCCEEDED] * 92 + [Status.FAILED] * 6 + [Status.CANCELLED, Status.SKIPPED]
WORDS = [f"w{number:04x}" for number in range(5_000)]
WEIGHTS = [1 / rank for rank in range(1, len(WORDS) + 1)]


@dataclass(frozen=True)
class Question:
    """One set of search conditions."""

    name: str
    conditions: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="the only database to fill and ask")
    arguments = parser.parse_args()
    slowest: dict[str, float] = {}
    if arguments.url:
        slowest[sa.make_url(arguments.url).get_backend_name()] = measure(arguments.url, arguments.rows)
    else:
        with tempfile.TemporaryDirectory() as directory:
            slowest["sqlite"] = measure(f"sqlite:///{Path(directory) / 'agent_pipelines.db'}", arguments.rows)
        if dsn := os.environ.get("AGENT_PIPELINES_TEST_DSN"):
            with _postgres_database(dsn) as url:
                slowest["postgresql"] = measure(url, arguments.rows)
    figures = {name: {"slowest_seconds": round(seconds, 3)} for name, seconds in slowest.items()}
    print(json.dumps({"rows": arguments.rows, "limit_seconds": LIMIT_SECONDS, **figures}))


def measure(url: str, rows: int) -> float:
    """Print the times of one database; returns the slowest."""
    database = Database(url)
    print(f"{database!r}")
    migrate(database)
    with database.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(executions.c.created_at))).scalar()
    now = newest or SystemClock().now()
    if newest is None:
        started = time.perf_counter()
        fill(database, rows, now)
        print(f"filled with {rows:,} executions in {time.perf_counter() - started:.0f} s")
    slowest = ask(database, now)
    print(f"slowest question: {slowest:.3f} s ({'within' if slowest < LIMIT_SECONDS else 'OVER'} {LIMIT_SECONDS:g} s)\n")
    database.close()
    return slowest


@contextmanager
def _postgres_database(dsn: str) -> Iterator[str]:
    name = f"execution_search_{os.getpid()}"
    server = sa.create_engine(dsn, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield sa.make_url(dsn).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


def fill(database: Database, rows: int, now: Microseconds) -> None:
    """Write executions as the ledger leaves them, in large batches: running first, then closed, then searchable."""
    chance = random.Random(1)
    specs = TaskSpecs(SystemClock())
    with database.transaction() as connection:
        hashes = {
            (application, task): specs.put(
                connection, TaskSpec(name=task, application=application, intent="A task of the benchmark.", agent="writer")
            )
            for application, task in TASKS
        }
    for first in range(0, rows, BATCH):
        batch = list(_rows(chance, hashes, first, min(first + BATCH, rows), rows, now))
        with database.transaction() as connection:
            connection.execute(executions.insert(), [row for row, _ in batch])
            final = executions.update().where(executions.c.id == sa.bindparam("which"))
            connection.execute(
                final.values({name: sa.bindparam(f"new_{name}") for name in batch[0][1]}),
                [{"which": row["id"], **{f"new_{name}": value for name, value in end.items()}} for row, end in batch],
            )
            ids = {row["id"]: (row, end) for row, end in batch}
            stored = connection.execute(sa.select(executions.c.seq, executions.c.id).where(executions.c.id.in_(list(ids))))
            connection.execute(
                execution_texts.insert(),
                [{"seq": seq, **searchable(_stored(*ids[id]))} for seq, id in stored],
            )
    _analyze(database)


def _rows(
    chance: random.Random, hashes: dict[tuple[str, str], str], first: int, last: int, rows: int, now: Microseconds
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for number in range(first, last):
        application, task = TASKS[min(int(chance.paretovariate(0.9)) - 1, len(TASKS) - 1)]
        created_at = now - DAYS * DAY + DAYS * DAY * number // rows
        status = chance.choice(STATUSES)
        invocation = Invocation(
            application=application,
            task=task,
            spec_hash=hashes[application, task],
            trigger="interval",
            origin=Origin.SCHEDULE,
            occurrence=str(created_at),
            due_at=created_at,
            logical_at=created_at,
        )
        words = chance.choices(WORDS, WEIGHTS, k=60)
        words.append("always")
        if task == "task_0":
            words.append("zero")  # in nearly half of all executions, in none of other tasks
        if number % 100 == 0:
            words.append("percent")
        if number % 100_000 == 7:
            words.append("seldom")
        text = " ".join(words)
        failed = status in (Status.FAILED, Status.CANCELLED)
        row = {
            **invocation.model_dump(mode="json", include={"workspace", "application", "task", "spec_hash", "trigger", "origin"}),
            **invocation.model_dump(mode="json", include={"occurrence", "due_at", "logical_at", "actor"}),
            "id": new_id(),
            "idempotency_key": invocation.idempotency_key,
            "invocation": invocation.model_dump(mode="json"),
            "run_id": new_id(),
            "status": "running",
            "created_at": created_at,
            "attempts": 1,
            "agent": "writer",
            "node": "one",
        }
        end = {
            "status": str(status),
            "finished_at": created_at + 2_000_000,
            "input_tokens": 900,
            "output_tokens": 120,
            "cost_usd": 0.0012,
            "text": None if failed else text,
            "error_class": "server" if failed else None,
            "error_stage": "invoke" if failed else None,
            "error_message": text if failed else None,
        }
        yield row, end


def _stored(row: dict[str, Any], end: dict[str, Any]) -> StoredExecution:
    return StoredExecution.model_construct(**{**dict.fromkeys(StoredExecution.model_fields), **row, **end})


def _analyze(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not database.is_sqlite:  # what autovacuum does by itself after such a load
            connection.exec_driver_sql("VACUUM ANALYZE executions")
            connection.exec_driver_sql("VACUUM ANALYZE execution_texts")


def ask(database: Database, now: Microseconds) -> float:
    """Print the time of every question; returns the slowest, in seconds."""
    listing = Executions(SystemClock())
    busy, quiet = {"application": "sales", "task": "task_0"}, {"application": "review", "task": "task_3"}
    recent, old = {"created_from": now - 7 * DAY}, {"created_from": now - 50 * DAY, "created_to": now - 45 * DAY}
    failed, cancelled, waiting = {"status": Status.FAILED}, {"status": Status.CANCELLED}, {"status": Status.WAITING}
    common, medium, rare, pair = {"text": "always"}, {"text": "percent"}, {"text": "seldom"}, {"text": "w0003 w0010"}
    questions = [
        Question("everything", {}),
        Question("status nobody has", waiting),
        Question("time, old", old),
        Question("busy task", busy),
        Question("quiet task", quiet),
        Question("busy task + failed", {**busy, **failed}),
        Question("busy task + status nobody has", {**busy, **waiting}),
        Question("busy task + cancelled + old", {**busy, **cancelled, **old}),
        Question("quiet task + cancelled + old", {**quiet, **cancelled, **old}),
        Question("application + cancelled + old", {"application": "finance", **cancelled, **old}),
        Question("origin nobody has", {"origin": Origin.ON_DEMAND}),
        Question("word of another task + task", {"text": "zero", "application": "sales", "task": "task_1"}),
        Question("word of another task + task + old", {"text": "zero", "application": "sales", "task": "task_1", **old}),
    ]
    for word_name, word in (("word in all", common), ("word in 1 %", medium), ("word in ten", rare), ("two words", pair)):
        questions += [
            Question(word_name, word),
            Question(f"{word_name} + busy task + failed + recent", {**word, **busy, **failed, **recent}),
            Question(f"{word_name} + busy task + failed + old", {**word, **busy, **failed, **old}),
            Question(f"{word_name} + quiet task + cancelled + old", {**word, **quiet, **cancelled, **old}),
            Question(f"{word_name} + quiet task + status nobody has", {**word, **quiet, **waiting}),
            Question(f"{word_name} + status nobody has + recent", {**word, **waiting, **recent}),
        ]
    print(f"{'question':<52} {'rows':>5} {'first':>8} {'median':>8} {'deep page':>10}   (seconds)")
    slowest = 0.0
    for question in questions:
        rows, first, median = _time(database, listing, question.conditions, None)
        deep = _deep(database, question.conditions)
        _, deep_first, deep_median = _time(database, listing, question.conditions, deep) if deep else (0, 0.0, 0.0)
        slowest = max(slowest, first, deep_first)
        print(f"{question.name:<52} {rows:>5} {first:>8.3f} {median:>8.3f} {max(deep_first, deep_median):>10.3f}")
    return slowest


def _time(database: Database, listing: Executions, conditions: dict[str, Any], before: int | None) -> tuple[int, float, float]:
    times: list[float] = []
    rows = 0
    for _ in range(3):
        started = time.perf_counter()
        with database.reading() as connection:
            rows = len(listing.list(connection, **conditions, before=before))
        times.append(time.perf_counter() - started)
        if times[0] > 10:
            break
    return rows, times[0], statistics.median(times)


def _deep(database: Database, conditions: dict[str, Any]) -> int | None:
    """The key of a page in the older half of the time asked for."""
    query = sa.select(executions.c.created_at, executions.c.seq)
    with database.reading() as connection:
        lowest, highest = connection.execute(
            sa.select(sa.func.min(executions.c.created_at), sa.func.max(executions.c.created_at))
        ).one()
        start = max(lowest, conditions.get("created_from", lowest))
        end = min(highest, conditions.get("created_to", highest))
        middle = query.where(executions.c.created_at >= start + (end - start) // 10).order_by(executions.c.created_at).limit(1)
        row = connection.execute(middle).first()
    return None if row is None else row.seq


if __name__ == "__main__":
    main()
