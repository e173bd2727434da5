import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, job, op
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus

from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.launcher import WatchedRunLauncher
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines_tests.engine.project import daemon, write_project

SETTINGS = {
    "telemetry": {"enabled": False},
    "run_launcher": {"module": "agent_pipelines.engine.launcher", "class": "WatchedRunLauncher"},
    "run_queue": {"dequeue_interval_seconds": 1},
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 1},
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(SETTINGS))
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def started_run(instance: DagsterInstance, pid: int | None) -> DagsterRun:
    @op
    def nothing() -> None: ...

    @job
    def some_job() -> None:
        nothing()

    run = instance.create_run_for_job(some_job, status=DagsterRunStatus.STARTED)
    instance.report_engine_event("Starting", run)
    if pid is not None:
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    return run


def health(instance: DagsterInstance, run: DagsterRun) -> WorkerStatus:
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    return launcher.check_run_worker_health(run).status


def test_a_run_is_alive_as_long_as_its_process(instance: DagsterInstance, process: subprocess.Popen[bytes]) -> None:
    run = started_run(instance, process.pid)
    assert health(instance, run) is WorkerStatus.RUNNING
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert health(instance, run) is WorkerStatus.FAILED  # a zombie until somebody waits for it
    process.wait()
    assert health(instance, run) is WorkerStatus.FAILED


def test_a_process_that_got_the_same_id_later_is_another_one(
    instance: DagsterInstance, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3_600)
    run = started_run(instance, process.pid)
    monkeypatch.undo()
    assert health(instance, run) is WorkerStatus.FAILED


def test_a_run_whose_process_is_not_known_counts_as_alive(instance: DagsterInstance) -> None:
    assert health(instance, started_run(instance, None)) is WorkerStatus.RUNNING


_SLEEPER = """
import os, pathlib, time
import dagster as dg


@dg.op
def sleep(context: dg.OpExecutionContext) -> None:
    pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
    time.sleep(600)


@dg.job(executor_def=dg.in_process_executor)
def app__report():
    sleep()


defs = dg.Definitions(jobs=[app__report])
"""


def test_a_run_that_was_killed_with_everything_fails_soon_after_the_restart(instance: DagsterInstance, tmp_path: Path) -> None:
    """kill -9 of daemon, code server and run at once; only the next daemon is there to notice."""
    file = write_project(tmp_path / "project", _SLEEPER)
    pid_file = file.with_name("pid")
    launch = Launch(task="app/report", trigger="t", origin=Origin.ON_DEMAND, occurrence="o", due_at=5, logical_at=5)
    with Workspace(instance, file) as workspace:
        gateway = DagsterGateway(instance, workspace.locations)
        run_id = gateway.launch("app__report", launch)
        with daemon(tmp_path / "home", file) as running:
            while not (pid_file.exists() and pid_file.read_text()):
                assert running.poll() is None, (tmp_path / "home" / "daemon.log").read_text()
                time.sleep(0.1)
            running.kill_all()
        assert gateway.run_status(run_id) == "STARTED"
        with daemon(tmp_path / "home", file):
            assert gateway.wait(run_id) == "FAILURE"
