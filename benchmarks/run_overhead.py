"""What one Dagster run of one op costs: Dagster's own launcher beside the warm one, in one go.

    python benchmarks/run_overhead.py [--quick] [--runs 10] [--burst 100] [--storage sqlite postgresql]

CPU seconds are those of the submitting process, the code server, the warm process and all their children; the database server is
not counted. "start" is from just before the run is created to the first line of user code. A burst is submitted at once by four
threads, as the daemon's queue does, and executed ten at a time. Prints a table, and as last line one JSON object. Other work on
the machine changes wall times: trust CPU seconds and ratios.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from agent_pipelines.engine.warm.place import WarmPlace

DEFINITIONS = """
import os, pathlib, time
import dagster as dg


@dg.op
def note(context: dg.OpExecutionContext) -> None:
    begun = time.time()
    (pathlib.Path(os.environ["BENCHMARK_NOTES"]) / context.run_id).write_text(str(begun))


@dg.job(executor_def=dg.multiprocess_executor)
def in_processes():
    note()


@dg.job(executor_def=dg.in_process_executor)
def in_process():
    note()


defs = dg.Definitions(jobs=[in_processes, in_process])
"""

STOCK = {"module": "dagster", "class": "DefaultRunLauncher"}
AT_ONCE = 10


def warm(**config: object) -> dict[str, Any]:
    return {"module": "agent_pipelines.engine.warm", "class": "WarmRunLauncher", "config": {"max_children": AT_ONCE, **config}}


MODES: dict[str, tuple[dict[str, Any], str]] = {
    "stock, multiprocess": (STOCK, "in_processes"),
    "stock, in-process": (STOCK, "in_process"),
    "warm, fork": (warm(), "in_process"),
    "warm, reuse": (warm(isolation="reuse"), "in_process"),
}


class Deployment:
    """One instance with one code server, and the runs that are made on it."""

    def __init__(self, directory: Path, launcher: dict[str, Any], storage: dict[str, Any]) -> None:
        self.home = directory / "home"
        self.home.mkdir()
        self.notes = directory / "notes"
        self.notes.mkdir()
        (directory / "benchmark_definitions.py").write_text(DEFINITIONS)
        workspace = directory / "workspace.yaml"
        workspace.write_text(
            "load_from:\n- python_file:\n    relative_path: benchmark_definitions.py\n    location_name: benchmark\n"
        )
        settings = {"telemetry": {"enabled": False}, "run_launcher": launcher, **storage}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        os.environ |= {"DAGSTER_HOME": str(self.home), "BENCHMARK_NOTES": str(self.notes)}
        self.instance = DagsterInstance.get()
        # As in the daemon: the connections of the process that submits are the same for every launcher.
        self.context = WorkspaceProcessContext(self.instance, WorkspaceFileTarget([str(workspace)]))
        self.request = self.context.create_request_context()
        (self.location,) = self.request.code_locations

    def launch(self, job_name: str) -> tuple[str, float]:
        began = time.time()
        run_id = create(self.instance, self.location, job_name)
        self.instance.launch_run(run_id, self.request)
        return run_id, began

    def wait(self, run_ids: list[str]) -> None:
        open_runs = set(run_ids)
        while open_runs:
            runs = {run.run_id: run for run in self.instance.get_runs() if run.run_id in open_runs}
            for run_id, run in runs.items():
                assert run.status not in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED), self.why(run_id)
                if run.status == DagsterRunStatus.SUCCESS:
                    open_runs.discard(run_id)
            time.sleep(0.05 if len(run_ids) == 1 else 0.5)

    def why(self, run_id: str) -> str:
        return "\n".join(str(entry.user_message) for entry in self.instance.all_logs(run_id))

    def start_of(self, run_id: str) -> float:
        return float((self.notes / run_id).read_text())

    def cpu(self) -> float:
        """CPU seconds so far of everything that takes part."""
        roots = [psutil.Process(), *(psutil.Process(each.pid) for each in WarmPlace(self.home).all_listening())]
        processes = {process.pid: process for root in roots for process in (root, *root.children(recursive=True))}
        total = 0.0
        for process in processes.values():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def close(self) -> None:
        WarmPlace(self.home).stop_all()
        self.context.__exit__(None, None, None)
        self.instance.dispose()


def create(instance: DagsterInstance, location: CodeLocation, job_name: str) -> str:
    (repository,) = location.get_repositories().values()
    job = repository.get_full_job(job_name)
    plan = location.get_execution_plan(job, {}, None, None, instance)
    return instance.create_run(
        job_name=job_name,
        run_id=None,
        run_config={},
        status=DagsterRunStatus.NOT_STARTED,
        tags={},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=plan.execution_plan_snapshot,
        job_snapshot=job.job_snapshot,
        parent_job_snapshot=job.parent_job_snapshot,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        asset_graph=repository.asset_graph,
    ).run_id


def measure(launcher: dict[str, Any], job_name: str, storage: dict[str, Any], runs: int, burst: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        deployment = Deployment(Path(directory), launcher, storage)
        try:
            first, _ = deployment.launch(job_name)  # whatever is done once
            deployment.wait([first])
            time.sleep(1.0)
            starts: list[float] = []
            cpu, began = deployment.cpu(), time.perf_counter()
            for _ in range(runs):
                run_id, asked = deployment.launch(job_name)
                deployment.wait([run_id])
                starts.append(deployment.start_of(run_id) - asked)
            wall = time.perf_counter() - began
            time.sleep(1.0)  # what ends after its run is counted, too
            cpu = deployment.cpu() - cpu
            figures = {
                "cpu_seconds": cpu / runs,
                "start_seconds": statistics.median(starts),
                "wall_seconds": wall / runs,
            }
            if burst:
                figures["burst_per_second"] = burst_rate(deployment, job_name, burst)
            return figures
        finally:
            deployment.close()


def burst_rate(deployment: Deployment, job_name: str, burst: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        run_ids = [run_id for run_id, _ in threads.map(lambda _: deployment.launch(job_name), range(burst))]
    deployment.wait(run_ids)
    return burst / (time.perf_counter() - began)


@contextmanager
def storages(wanted: list[str]) -> Iterator[dict[str, Callable[[], dict[str, Any]]]]:
    """The storage section of dagster.yaml by name, made anew for each deployment."""
    server = None
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    if "sqlite" in wanted:
        consolidated = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
        found["sqlite"] = lambda: {"event_log_storage": {**consolidated, "config": {"base_dir": {"env": "DAGSTER_HOME"}}}}
    if "postgresql" in wanted:
        dsn = os.environ.get("AGENT_PIPELINES_TEST_DSN")
        if dsn is None:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from agent_pipelines_tests.postgres import PostgresServer

            server = PostgresServer()
            dsn = server.dsn
        found["postgresql"] = lambda: {"storage": {"postgres": {"postgres_url": new_database(dsn)}}}
    try:
        yield found
    finally:
        if server is not None:
            server.stop()


def new_database(dsn: str) -> str:
    name = f"runs_{time.time_ns()}"
    engine = sa.create_engine(dsn, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(dsn).set(database=name).render_as_string(hide_password=False)


def verdict(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    must: dict[str, bool] = {}
    aim: dict[str, bool] = {}
    for storage, rows in figures.items():
        fork, reuse = rows["warm, fork"], rows["warm, reuse"]
        processes, process = rows["stock, multiprocess"], rows["stock, in-process"]
        must[f"{storage}: fork, CPU at most 1/10 of multiprocess"] = fork["cpu_seconds"] * 10 <= processes["cpu_seconds"]
        must[f"{storage}: fork, CPU at most 1/5 of in-process"] = fork["cpu_seconds"] * 5 <= process["cpu_seconds"]
        must[f"{storage}: fork, start at most 1/5 of multiprocess"] = fork["start_seconds"] * 5 <= processes["start_seconds"]
        aim[f"{storage}: fork, at most 0.25 CPU s"] = fork["cpu_seconds"] <= 0.25
        aim[f"{storage}: reuse, at most 0.12 CPU s"] = reuse["cpu_seconds"] <= 0.12
        aim[f"{storage}: fork, start within 250 ms"] = fork["start_seconds"] <= 0.25
        if "burst_per_second" in fork:
            must[f"{storage}: 3 runs/s in a burst"] = fork["burst_per_second"] >= 3
            aim[f"{storage}: 10 runs/s in a burst"] = max(fork["burst_per_second"], reuse["burst_per_second"]) >= 10
    return {"must_met": all(must.values()), "aim_met": all(aim.values()), "must": must, "aim": aim}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three runs of each kind, a burst of 20")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--burst", type=int, default=100)
    parser.add_argument("--storage", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--only", help="only kinds that contain this text; then no verdict")
    options = parser.parse_args()
    runs, burst = (3, 20) if options.quick else (options.runs, options.burst)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    columns = ("cpu_seconds", "start_seconds", "wall_seconds", "burst_per_second")
    print(f"{'':32}{'CPU s/run':>12}{'start s':>12}{'wall s/run':>12}{'burst /s':>12}", flush=True)
    with storages(options.storage) as found:
        for storage, section in found.items():
            figures[storage] = {}
            for name, (launcher, job_name) in MODES.items():
                if options.only and options.only not in name:
                    continue
                # Dagster's own launcher starts a burst with one process a run, all at once: only the warm one is measured.
                row = measure(launcher, job_name, section(), runs, burst if launcher is not STOCK else 0)
                figures[storage][name] = row
                cells = "".join(f"{row[column]:12.3f}" if column in row else f"{'':12}" for column in columns)
                print(f"{storage + ', ' + name:32}{cells}", flush=True)
    result: dict[str, Any] = {"figures": figures}
    if not options.only:
        result |= verdict(figures)
    print(json.dumps(result, default=lambda value: round(value, 3)))


if __name__ == "__main__":
    main()
