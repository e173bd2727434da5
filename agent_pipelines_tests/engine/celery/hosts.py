"""Machines as tests can have them: a home and a worker each, in a network namespace of their own where that is possible."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import FileCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from sqlalchemy.exc import DBAPIError

from agent_pipelines.components.deployment import hub_of
from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.celery.claims import RunClaim
from agent_pipelines.engine.celery.launcher import ClaimingCeleryRunLauncher
from agent_pipelines.engine.celery.workers import StoredWorker
from agent_pipelines.engine.periodic import Periodic
from agent_pipelines.hub import Hub
from agent_pipelines_tests.broker import BrokerServer
from agent_pipelines_tests.postgres import PostgresServer

ROOT = Path(__file__).parents[3]
NETWORK, HERE = "10.213.9.0/24", "10.213.9.1"
_BRIDGE = "ap-tests"
QUEUE = "dagster-celery/queue"

DEFINITIONS = """
import os, pathlib, signal, socket, subprocess, sys, time
import dagster as dg

notes = pathlib.Path(__file__).with_name("notes")


def note(context, word):
    with notes.open("a") as file:
        file.write(f"{context.run_id} {word} {socket.gethostname()} {os.getpid()} {time.time()}\\n")


def job(body):
    @dg.op(name="work")
    def work(context: dg.OpExecutionContext) -> None:
        note(context, "begin")
        body(context)
        note(context, "end")

    @dg.job(name=body.__name__, executor_def=dg.in_process_executor)
    def made():
        work()

    return made


@job
def short(context):
    pass


@job
def waiting(context):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    note(context, f"helper={helper.pid}")
    while not notes.with_name("go-on").exists():
        time.sleep(0.05)
        note(context, "works")
    helper.kill()
    helper.wait()


@job
def stubborn(context):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    note(context, "deaf")
    time.sleep(300)


defs = dg.Definitions(jobs=[short, waiting, stubborn])
"""


def can_make_networks() -> bool:
    """Whether this is root on Linux with `ip`, and namespaces can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    made = subprocess.run(["ip", "link", "add", _BRIDGE, "type", "bridge"], capture_output=True, check=False).returncode == 0
    if made:
        _ip("link", "del", _BRIDGE)
    return made


class Host:
    """One machine with one worker."""

    def __init__(self, name: str, home: Path, address: str | None) -> None:
        self.name = name
        self.home = home
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None
        if address is not None:
            space, cable = f"ap-{name}", f"ap-{name}"
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "inside", "netns", space)
            _ip("link", "set", cable, "master", _BRIDGE, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "inside")
            _ip("-n", space, "link", "set", "inside", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def start(self, *queues: str, concurrency: int = 4) -> None:
        """Start a worker on it."""
        worker = [sys.executable, "-m", "agent_pipelines.cli.main", "worker", "--name", self.name]
        worker += ["--concurrency", str(concurrency)]
        for queue in queues:
            worker += ["--queue", queue]
        if self._address is not None:
            named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
            worker = ["ip", "netns", "exec", f"ap-{self.name}", *named, *worker]
        with (self.home / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                worker,
                env={**os.environ, "DAGSTER_HOME": str(self.home), "PYTHONPATH": str(ROOT)},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """All that runs on it: worker, warm process and runs."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("DAGSTER_HOME") == str(self.home):
                    found.append(process)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to everything on it, as a machine that loses power or is suspended."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.send_signal(number)

    def cut(self) -> None:
        """Pull its cable. Without namespaces: suspend its worker, which then can say no more that it lives."""
        if self._address is not None:
            _ip("link", "set", f"ap-{self.name}", "down")
        else:
            os.kill(self.pid, signal.SIGSTOP)

    def mend(self) -> None:
        """Put the cable back."""
        if self._address is not None:
            _ip("link", "set", f"ap-{self.name}", "up")
        else:
            os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        return (self.home / "worker.log").read_text()

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        if self._address is not None:
            _ip("link", "del", f"ap-{self.name}")
            _ip("netns", "del", f"ap-{self.name}")


class Fleet:
    """A deployment with several hosts; this process is its daemon as far as launched runs are concerned."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], *, hosts: int) -> None:
        self._has_networks = can_make_networks()
        here = HERE if self._has_networks else "127.0.0.1"
        if self._has_networks:
            _ip("link", "add", _BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{HERE}/24", "dev", _BRIDGE)
            _ip("link", "set", _BRIDGE, "up")
        self.directory = directory
        self.broker = BrokerServer()
        self.postgres = PostgresServer(network=NETWORK if self._has_networks else None)
        url = self.postgres.dsn.replace("127.0.0.1", here)
        self._file = directory / "definitions.py"
        self._file.write_text(DEFINITIONS)
        config = {
            "broker": self.broker.url(here),
            "warm": {"grace_after_interrupt": 0.5, "grace_after_terminate": 0.5},
            **settings,
        }
        launcher = {"module": "agent_pipelines.engine.celery", "class": "ClaimingCeleryRunLauncher", "config": config}
        self._settings = {
            "telemetry": {"enabled": False},
            "storage": {"postgres": {"postgres_url": url}},
            "run_launcher": launcher,
            "run_monitoring": {"enabled": True, "start_timeout_seconds": 600},
        }
        self.instance = DagsterInstance.from_config(str(self._home("here")))
        self.hub: Hub = hub_of(self.instance)
        self.hosts = [self._host(number) for number in range(hosts)]
        self._stop = threading.Event()
        # What the daemon does each second.
        self._looking = Periodic("launched runs", self.launcher.look_after, 0.5, self._stop).start()

    @property
    def launcher(self) -> ClaimingCeleryRunLauncher:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, ClaimingCeleryRunLauncher)
        return launcher

    def allow_resume(self, attempts: int) -> None:
        """What run monitoring may do with lost runs."""
        self.instance._settings["run_monitoring"]["max_resume_run_attempts"] = attempts  # type: ignore[attr-defined]

    def launch(self, job: str, queue: str | None = None) -> str:
        @dg.op(name="work")
        def work() -> None: ...

        @dg.job(name=job, executor_def=dg.in_process_executor)
        def made() -> None:
            work()

        origin = RepositoryPythonOrigin(sys.executable, FileCodePointer(str(self._file), "defs", str(self.directory)))
        run = self.instance.create_run_for_job(
            made,
            status=DagsterRunStatus.NOT_STARTED,
            job_code_origin=JobPythonOrigin(job, origin),
            tags={} if queue is None else {QUEUE: queue},
        )
        self.instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
        return run.run_id

    def go_on(self) -> None:
        """Let the jobs that wait go on."""
        (self.directory / "go-on").touch()

    def notes(self, run_id: str) -> list[list[str]]:
        """What a run's body has noted: word, host, process, time."""
        file = self.directory / "notes"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [line[1:] for line in lines if line[0] == run_id and len(line) == 5]

    def words(self, run_id: str) -> Counter[str]:
        return Counter(note[0] for note in self.notes(run_id))

    def host_of(self, run_id: str) -> Host:
        """The host that works on a run, once one does."""
        self.until(lambda: self.words(run_id)["begin"], f"run {run_id} does not begin")
        worker = self.claim(run_id).worker
        name = next(each.name for each in self.workers() if each.id == worker)
        return next(host for host in self.hosts if host.name == name)

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def claim(self, run_id: str) -> RunClaim:
        with self.hub.database.reading() as connection:
            claim = self.hub.run_claims.get(connection, run_id)
        assert claim is not None
        return claim

    def workers(self) -> list[StoredWorker]:
        with self.hub.database.reading() as connection:
            return list(self.hub.workers.alive(connection))

    def ended(self, run_id: str) -> str:
        """The status of a run, once it is over and no worker has it."""
        self.until(lambda: self.run(run_id).is_finished, f"run {run_id} is not over")
        self.until(lambda: self.claim(run_id).ended_at is not None, f"the claim of run {run_id} is not over")
        return self.run(run_id).status.value

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.user_message or str(entry.message) for entry in self.instance.all_logs(run_id))

    def until(self, condition: Callable[[], object], words: str, seconds: float = 90.0) -> float:
        """Wait for a condition; returns the seconds that it took. A database that is away just now has no answer."""
        began = time.monotonic()
        while not _holds(condition):
            if time.monotonic() - began > seconds:
                raise AssertionError("\n".join([words, *(f"{host.name}:\n{host.log()}" for host in self.hosts)]))
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self) -> None:
        self._stop.set()
        self._looking.join(60)
        for host in self.hosts:
            host.close()
        self.instance.dispose()
        self.hub.database.close()
        self.postgres.stop()
        self.broker.stop()
        if self._has_networks:
            _ip("link", "del", _BRIDGE)

    def _host(self, number: int) -> Host:
        name = f"host{number + 1}"
        return Host(name, self._home(name), f"10.213.9.{number + 11}" if self._has_networks else None)

    def _home(self, name: str) -> Path:
        home = self.directory / name
        home.mkdir()
        (home / "dagster.yaml").write_text(yaml.safe_dump(self._settings))
        (home / "worker.log").touch()
        return home


@contextmanager
def fleet(directory: Path, *, hosts: int, **settings: Any) -> Iterator[Fleet]:
    made = Fleet(directory, settings, hosts=hosts)
    try:
        yield made
    finally:
        made.close()


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except (StorageError, DBAPIError):
        return False


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
