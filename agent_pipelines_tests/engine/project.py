"""A small Dagster project on disk, as a user's, and the processes that serve it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def daemon(home: Path, workspace: Path) -> Iterator[None]:
    """Dagster's daemon in a process of its own."""
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    with (home / "daemon.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=workspace.parent, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
