"""A small Dagster project on disk, as a user's, and the processes that serve it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEFINITIONS = """
import dagster as dg


@dg.multi_asset(name="report", specs=[dg.AssetSpec(["app", "report"])])
def report(context: dg.AssetExecutionContext) -> None:
    context.log.info("told: " + context.run.tags.get("agent_pipelines/trigger", "nothing"))


job = dg.define_asset_job("app__report", selection=dg.AssetSelection.assets(["app", "report"]), tags={"team": "data"})
schedule = dg.ScheduleDefinition(name="app__report__cron", cron_schedule="0 6 * * *", job=job)


@dg.sensor(name="app__report__triggers", job=job)
def sensor():
    yield dg.SkipReason("nothing")


defs = dg.Definitions(assets=[report], jobs=[job], schedules=[schedule], sensors=[sensor])
"""


def write_project(directory: Path, definitions: str = DEFINITIONS) -> Path:
    """Write a project with one code location; returns its workspace file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "definitions_of_test.py").write_text(definitions)
    file = directory / "workspace.yaml"
    file.write_text("load_from:\n- python_file:\n    relative_path: definitions_of_test.py\n    location_name: project\n")
    return file


class Daemon:
    """Dagster's daemon with its code server and runs, in a process group of its own."""

    def __init__(self, home: Path, workspace: Path) -> None:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
        environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
        with (home / "daemon.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=workspace.parent, stdout=log, stderr=log, start_new_session=True
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def kill_all(self) -> None:
        """End the whole group without warning."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill_all()


@contextmanager
def daemon(home: Path, workspace: Path) -> Iterator[Daemon]:
    """Dagster's daemon, stopped at the end."""
    running = Daemon(home, workspace)
    try:
        yield running
    finally:
        running.stop()
