"""A project on disk whose runs are launched warm, with an instance and nothing else around it."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import FileCodePointer
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from agent_pipelines.engine.warm import WarmRunLauncher
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.engine.warm.record import RunRecord

HEADER = """
import os, pathlib, signal, subprocess, sys, threading, time
import dagster as dg

here = pathlib.Path(__file__).parent


def job(body):
    @dg.op(name="work")
    def work(context: dg.OpExecutionContext) -> None:
        body(context)

    @dg.job(name=body.__name__, executor_def=dg.in_process_executor)
    def made():
        work()

    return made


def tell(context, text):
    (here / (context.run_id + ".new")).write_text(str(text))
    (here / (context.run_id + ".new")).rename(here / (context.run_id + ".told"))


def sleep_long():
    time.sleep(120)
"""

FOOTER = """
defs = dg.Definitions(jobs=[each for each in list(globals().values()) if isinstance(each, dg.JobDefinition)])
"""


class WarmProject:
    """Launches runs of a project. A job's body tells things through a file, so that a test knows how far it is."""

    def __init__(self, directory: Path, body: str, settings: Mapping[str, Any], storage: Mapping[str, Any]) -> None:
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        self.file = directory / "definitions.py"
        self.write(body)
        launcher = {"module": "agent_pipelines.engine.warm", "class": "WarmRunLauncher", "config": dict(settings)}
        config = {"telemetry": {"enabled": False}, "run_launcher": launcher, **storage}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        self.instance = DagsterInstance.from_config(str(self.home))
        self.place = WarmPlace(self.home)

    @property
    def launcher(self) -> WarmRunLauncher:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, WarmRunLauncher)
        return launcher

    def write(self, body: str) -> None:
        self.file.write_text(HEADER + body + FOOTER)

    def create(self, job: str) -> str:
        @dg.op(name="work")
        def work() -> None: ...

        @dg.job(name=job, executor_def=dg.in_process_executor)
        def made() -> None:
            work()

        pointer = FileCodePointer(str(self.file), "defs", str(self.file.parent))
        origin = JobPythonOrigin(job, RepositoryPythonOrigin(sys.executable, pointer))
        return self.instance.create_run_for_job(made, status=DagsterRunStatus.NOT_STARTED, job_code_origin=origin).run_id

    def launch(self, job: str) -> str:
        run_id = self.create(job)
        self.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
        return run_id

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def told(self, run_id: str) -> str:
        """What the body of a run has told, once it has."""
        path = self.file.parent / f"{run_id}.told"
        self.until(path.exists, f"run {run_id} told nothing")
        return path.read_text()

    def forget(self, run_id: str) -> None:
        """Forget what the body of a run has told."""
        (self.file.parent / f"{run_id}.told").unlink()

    def ended(self, run_id: str) -> str:
        """The status of a run, once it is over."""
        self.until(lambda: self.run(run_id).is_finished, f"run {run_id} is not over")
        return self.run(run_id).status.value

    def record(self, run_id: str) -> RunRecord:
        record = self.place.records.get(run_id)
        assert record is not None
        return record

    def health(self, run_id: str) -> WorkerStatus:
        return self.launcher.check_run_worker_health(self.run(run_id)).status

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.user_message or str(entry.message) for entry in self.instance.all_logs(run_id))

    def warm_pids(self) -> set[int]:
        return {each.pid for each in self.place.all_listening()}

    def until(self, condition: Callable[[], object], words: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                logs = [path.read_text() for path in (self.home / "process_logs").glob("*.log")]
                raise AssertionError("\n".join([words, *logs]))
            time.sleep(0.02)

    def close(self) -> None:
        for path in (self.place.directory / "runs").glob("*.json"):
            record = self.place.records.get(path.stem)
            if record is not None:
                record.process.send_group(signal.SIGKILL)
        listening = self.place.all_listening()
        self.place.stop_all()
        for each in listening:
            self.until(lambda each=each: not each.process.is_alive(), "the warm process does not end")
        self.instance.dispose()


@contextmanager
def warm_project(
    directory: Path, body: str, settings: Mapping[str, Any] | None = None, storage: Mapping[str, Any] | None = None
) -> Iterator[WarmProject]:
    project = WarmProject(directory, body, settings or {}, storage or {})
    try:
        yield project
    finally:
        project.close()
