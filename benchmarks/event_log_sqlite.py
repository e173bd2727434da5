"""Dagster's two SQLite event logs under concurrent writer processes: one file a run (its default) and one file for all.

    python benchmarks/event_log_sqlite.py [--runs 10] [--messages 20] [--processes 1 2 4 8]

Each process executes runs of a one-asset job, one after the other, and logs messages in it; a reader polls the newest events
of all runs meanwhile, as a webserver and a sensor do. Both logs work on the same machine in the same minutes. Prints a table,
and as last line one JSON object. `lost` counts events that a finished run should have and has not; `errors` are
exceptions in writers or reader, locked databases among them.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

KINDS = {
    "one file a run": {"module": "dagster._core.storage.event_log", "class": "SqliteEventLogStorage"},
    "one file for all": {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"},
}


def _home(directory: Path, kind: str) -> Path:
    home = directory / kind.replace(" ", "-")
    home.mkdir()
    storage = {**KINDS[kind], "config": {"base_dir": str(home / "events")}}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, "event_log_storage": storage}))
    return home


def _write(home: str, runs: int, messages: int, start: Any, results: Any) -> None:
    import dagster as dg

    @dg.asset
    def something(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        for number in range(messages):
            context.log.info(f"message {number}")
        return dg.MaterializeResult(metadata={"number": 1})

    job = dg.Definitions(assets=[something], jobs=[dg.define_asset_job("job", [something])]).resolve_job_def("job")
    errors: list[str] = []
    run_ids: list[str] = []
    with dg.DagsterInstance.from_config(home) as instance:
        start.wait()
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        for _ in range(runs):
            try:
                run_ids.append(job.execute_in_process(instance=instance, raise_on_error=False).run_id)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}"[:200])
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    results.put(("writer", run_ids, errors, cpu, time.monotonic() - began))


def _read(home: str, start: Any, stop: Any, results: Any) -> None:
    import dagster as dg

    errors: list[str] = []
    slowest, looks = 0.0, 0
    with dg.DagsterInstance.from_config(home) as instance:
        start.wait()
        while not stop.is_set():
            began = time.monotonic()
            try:
                instance.fetch_materializations(dg.AssetKey("something"), limit=50)
                for run in instance.get_runs(limit=3):
                    instance.get_records_for_run(run.run_id, limit=100)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}"[:200])
            looks += 1
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
    results.put(("reader", looks, errors, slowest, 0.0))


def _measure(directory: Path, kind: str, processes: int, runs: int, messages: int) -> dict[str, Any]:
    import dagster as dg

    home = _home(directory, kind)
    with dg.DagsterInstance.from_config(str(home)):
        pass  # makes the tables
    context = multiprocessing.get_context("spawn")
    start, stop, results = context.Barrier(processes + 1), context.Event(), context.Queue()
    writers = [
        context.Process(target=_write, args=(str(home), runs, messages, start, results), daemon=True) for _ in range(processes)
    ]
    reader = context.Process(target=_read, args=(str(home), start, stop, results), daemon=True)
    for process in (*writers, reader):
        process.start()
    answers = [results.get() for _ in writers]
    stop.set()
    _, looks, reader_errors, slowest, _ = results.get()
    for process in (*writers, reader):
        process.join()
    run_ids = [run_id for _, ids, *_ in answers for run_id in ids]
    errors = [error for _, _, found, *_ in answers for error in found] + reader_errors
    with dg.DagsterInstance.from_config(str(home)) as instance:
        events = {run_id: len(instance.all_logs(run_id)) for run_id in run_ids}
        materialized = len(instance.fetch_materializations(dg.AssetKey("something"), limit=10_000).records)
    whole = max(events.values(), default=0)
    wall = max(seconds for *_, seconds in answers)
    return {
        "events": kind,
        "processes": processes,
        "runs": len(run_ids),
        "runs_per_second": round(len(run_ids) / wall, 2),
        "cpu_per_run": round(sum(cpu for *_, cpu, _ in answers) / max(len(run_ids), 1), 3),
        "events_per_run": whole,
        "lost": sum(whole - count for count in events.values()) + len(run_ids) - materialized,
        "errors": len(errors),
        "error": errors[0] if errors else None,
        "looks": looks,
        "slowest_look": round(slowest, 2),
        "megabytes": round(sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of each process")
    parser.add_argument("--messages", type=int, default=20, help="messages that each run logs")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    rows: list[dict[str, Any]] = []
    columns = ("events", "processes", "runs_per_second", "cpu_per_run", "lost", "errors", "slowest_look", "megabytes")
    print(" | ".join(columns))
    for processes in arguments.processes:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack():
                row = _measure(Path(directory), kind, processes, arguments.runs, arguments.messages)
            rows.append(row)
            print(" | ".join(str(row[column]) for column in columns), flush=True)
            if row["error"]:
                print(f"    {row['error']}")
    print(json.dumps({"load": os.getloadavg()[0], "rows": rows}))


if __name__ == "__main__":
    main()
