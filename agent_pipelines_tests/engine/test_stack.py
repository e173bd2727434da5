"""A whole stack as `agent-pipelines up` starts it, whose processes are killed one after the other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import httpx
import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.code_pointer import FileCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.engine.service import Service
from agent_pipelines.engine.stack import Stack, StackError, prepare_home
from agent_pipelines.engine.stack_state import ServiceState, StackState
from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.store.database import Database
from agent_pipelines.web.server import listen
from agent_pipelines_tests.broker import BrokerServer
from agent_pipelines_tests.engine.project import write_project

WAIT = 90.0


def wait_until(condition: Callable[[], object], what: str, log: Path) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}:\n{log.read_text() if log.exists() else 'no log'}"
        time.sleep(0.1)


class Up:
    """`agent-pipelines up` in a process of its own."""

    def __init__(self, directory: Path, settings: str = "telemetry: {enabled: false}\n") -> None:
        self.directory = directory
        self.project = directory / "project"
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(settings)
        write_project(self.project)
        with listen("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        self.log = self.home / "process_logs" / "stack.log"
        self.processes: list[subprocess.Popen[str]] = []
        self.seen: set[ProcessIdentity] = set()

    def start(self, *, port: int | None = None) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "agent_pipelines.cli.main", "up", "--project", str(self.project)]
        process = subprocess.Popen(
            [*command, "--port", str(port or self.port)],
            env={**os.environ, "DAGSTER_HOME": str(self.home), "DAGSTER_DISABLE_TELEMETRY": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def state(self) -> StackState | None:
        state = StackState.of_home(self.home)
        if state is not None:
            # With all that they have started, to find what is left behind.
            for root in (state.process, *(ProcessIdentity(s.pid, s.started) for s in state.services if s.pid and s.started)):
                with suppress(psutil.Error):
                    children = [root.pid, *(child.pid for child in psutil.Process(root.pid).children(recursive=True))]
                    self.seen |= {ProcessIdentity.of(pid) for pid in children} if root.is_alive() else set()
        return state

    def service(self, name: str) -> ServiceState | None:
        state = self.state()
        found = [] if state is None or not state.is_alive else [each for each in state.services if each.name == name]
        return found[0] if found and found[0].is_alive else None

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/server_info", timeout=5).status_code == 200
        return False

    def is_whole(self) -> bool:
        names = ("code server project", "web server", "daemon", "poller")
        return all(self.service(name) for name in names) and self.answers()

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, what, self.log)

    def left(self) -> list[str]:
        return [" ".join(psutil.Process(process.pid).cmdline()) for process in self.seen if process.is_alive()]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for identity in self.seen:
            identity.send(signal.SIGKILL)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    running.close()


def test_what_dies_is_started_again_and_the_end_leaves_nothing(up: Up) -> None:
    leading = up.start()
    up.wait_until(up.is_whole, "the stack does not come up")

    second = up.start(port=up.port + 1)
    said = second.communicate(timeout=WAIT)[1]
    assert second.returncode == 1
    assert f"process {leading.pid} runs {up.home} already, on http://127.0.0.1:{up.port} since" in said
    assert f"stop it with `kill {leading.pid}`" in said

    for name in ("web server", "code server project", "daemon", "poller"):
        before = up.service(name)
        assert before is not None
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        up.wait_until(lambda n=name, b=before: (s := up.service(n)) is not None and s.pid != b.pid, f"{name} stays dead")
        after = up.service(name)
        assert after is not None
        assert (after.restarts, after.exit_code) == (1, -signal.SIGKILL)
    up.wait_until(up.is_whole, "the stack is not whole again")

    # Those below it are asked to end by the kernel; `up` starts all of them again.
    state = up.state()
    assert state is not None
    state.process.send(signal.SIGKILL)
    up.wait_until(lambda: (s := up.state()) is not None and s.is_alive and s.restarts == 1, "the supervisor stays dead")
    up.wait_until(up.is_whole, "the stack is not whole again")

    up.log.write_text("")
    leading.send_signal(signal.SIGINT)
    assert leading.wait(WAIT) == 0
    assert StackState.of_home(up.home) is None
    log = up.log.read_text()
    # What the code server that was killed had started ends by itself, half a minute after its last sign of life.
    up.wait_until(lambda: up.left() == [], "something is left behind")
    assert "asked to stop" in log
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert "\x1b" not in log


@pytest.mark.long
def test_nothing_outlives_up_and_the_next_one_is_not_kept_out(up: Up) -> None:
    killed = up.start()
    up.wait_until(up.is_whole, "the stack does not come up")
    killed.kill()
    # At once: it waits for the end of what the first one has left behind.
    state = up.state()
    assert state is not None
    following = up.start()
    up.wait_until(lambda: (s := up.state()) is not None and s.owner_pid == following.pid, "the next one is kept out")
    up.wait_until(up.is_whole, "the next one does not come up")
    assert not state.process.is_alive()
    assert not any(service.is_alive for service in state.services)

    # Both leading processes at once; one that does not heed the kernel's signal is left.
    state = up.state()
    assert state is not None
    daemon = up.service("daemon")
    assert daemon is not None
    assert daemon.pid is not None
    os.kill(daemon.pid, signal.SIGSTOP)
    following.kill()
    state.process.send(signal.SIGKILL)
    assert daemon.is_alive
    last = up.start()
    up.wait_until(lambda: (s := up.state()) is not None and s.owner_pid == last.pid, "the last one is kept out")
    assert not daemon.is_alive
    up.wait_until(up.is_whole, "the last one does not come up")
    last.send_signal(signal.SIGTERM)
    assert last.wait(WAIT) == 0
    assert up.left() == []


_WAITING = """
import time
import dagster as dg


@dg.op
def work() -> None:
    time.sleep(300)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    work()


defs = dg.Definitions(jobs=[waiting])
"""


def launch_waiting(instance: DagsterInstance, project: Path) -> str:
    """Launch a run that lasts for five minutes; returns its id."""

    @dg.op
    def work() -> None: ...

    @dg.job(executor_def=dg.in_process_executor)
    def waiting() -> None:
        work()

    file = project / "waiting_of_test.py"
    file.write_text(_WAITING)
    origin = RepositoryPythonOrigin(sys.executable, FileCodePointer(str(file), "defs", str(project)))
    run = instance.create_run_for_job(
        waiting, status=DagsterRunStatus.NOT_STARTED, job_code_origin=JobPythonOrigin("waiting", origin)
    )
    instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
    return run.run_id


_WITH_A_WORKER = """
telemetry: {{enabled: false}}
storage: {{postgres: {{postgres_url: "{postgres}"}}}}
run_launcher:
  module: agent_pipelines.engine.celery
  class: ClaimingCeleryRunLauncher
  config: {{broker: "{broker}", default_queue: dagster, local_workers: 1}}
"""


def test_a_worker_is_kept_alive_if_the_settings_say_so(tmp_path: Path, postgres_url: str) -> None:
    broker = BrokerServer()
    up = Up(tmp_path, _WITH_A_WORKER.format(postgres=postgres_url, broker=broker.url()))
    database = Database(postgres_url)

    def serving() -> set[int]:
        with suppress(StorageError), database.reading() as connection:
            return {each.pid for each in Workers(SystemClock()).known(connection) if psutil.pid_exists(each.pid)}
        return set()

    try:
        leading = up.start()
        up.wait_until(lambda: up.is_whole() and serving(), "no worker serves")
        worker = up.service("worker 1")
        assert worker is not None
        assert worker.pid is not None
        assert serving() == {worker.pid}
        os.kill(worker.pid, signal.SIGKILL)
        up.wait_until(lambda: serving() not in (set(), {worker.pid}), "the worker stays dead")
        after = up.service("worker 1")
        assert after is not None
        assert (after.restarts, after.exit_code) == (1, -signal.SIGKILL)
        with DagsterInstance.from_config(str(up.home)) as instance:
            run_id = launch_waiting(instance, up.project)
            started = DagsterRunStatus.STARTED
            up.wait_until(lambda: (run := instance.get_run_by_id(run_id)) and run.status is started, "the run does not begin")
            leading.send_signal(signal.SIGINT)
            assert leading.wait(WAIT) == 0
            run = instance.get_run_by_id(run_id)
            assert run is not None
            assert run.status is DagsterRunStatus.FAILURE
            assert any("asked to stop, and then to hurry" in entry.message for entry in instance.all_logs(run_id))
        assert serving() == set()
        up.wait_until(lambda: up.left() == [], "something is left behind")
    finally:
        up.close()
        database.close()
        broker.stop()


def test_a_full_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    write_project(tmp_path / "project")
    stack = Stack(tmp_path / "project", prepare_home(tmp_path / "project", tmp_path / "home"), port=0)
    stack.log_path.parent.mkdir()
    for size in (2**24, 2**24 + 1):
        stack.log_path.write_bytes(bytes(size))
        stack.start()
        stack.stop()
        kept = stack.log_path.with_name("stack.log.1")
        assert kept.exists() is (size > 2**24)
    assert kept.stat().st_size == 2**24 + 1
    assert stack.log_path.stat().st_size < 2**24


def _state(process: ProcessIdentity) -> StackState:
    return StackState(HOST, process.pid, process.started, process.pid, process.started, 0, "http://x", 0, False, ())


def test_what_was_said_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    own = ProcessIdentity.own()
    _state(own).write(tmp_path)
    assert _state(own) == StackState.of_home(tmp_path)
    assert _state(own).is_alive
    # The id was given again: another start is another process.
    assert not _state(ProcessIdentity(own.pid, "elsewhen")).is_alive
    (tmp_path / "stack.json").write_text('{"of": "another version"}')
    assert StackState.of_home(tmp_path) is None


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} on 127.0.0.1 is in use; .*--port"):
            Stack(tmp_path, tmp_path, port=port).start()
    with pytest.raises(StackError, match=r"192\.0\.2\.1:3000 cannot be listened on"):
        Stack(tmp_path, tmp_path, host="192.0.2.1", port=3000).start()


def test_a_service_that_dies_at_once_waits_longer_each_time() -> None:
    service = Service("short", [sys.executable, "-c", "raise SystemExit(3)"])
    assert service.keep()
    deadline = time.monotonic() + WAIT
    while service.state.pid is not None:
        service.keep()
        assert time.monotonic() < deadline
    assert (service.state.restarts, service.state.exit_code) == (1, 3)
    assert not service.keep()
