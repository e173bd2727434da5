"""The command line in a process that has imported everything already, so that a page full of commands runs in seconds.

`python -m agent_pipelines_tests.docs.warm SOCKET` serves. The program that `client` makes stands on PATH as `agent-pipelines`: it
hands its arguments, directory, environment and open files to the server, which forks a process that runs the real `main`.

`agent-pipelines up` alone is not the real one, which other tests start: it makes the home, and a process that executes the
runs in the queue one by one. It ends with the server, or when there is a file `stop` in the home.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import dagster_postgres  # noqa: F401
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import execute_run
from dagster._core.storage.dagster_run import DagsterRunStatus, RunsFilter
from dagster._core.utils import make_new_run_id
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster.components.core import snapshot
from dagster.components.core.load_defs import get_library_json_enriched_defs

import agent_pipelines.definitions  # noqa: F401
from agent_pipelines.cli.main import main
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.engine.gateway import QUEUE_DAEMON, DagsterGateway
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.stack import prepare_home
from agent_pipelines.engine.tick import MERGE, SHARD, Tick
from agent_pipelines.engine.workspace import Workspace

_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or 70))
"""


def client(path: Path) -> str:
    """The program that hands a command to the server at a socket."""
    return _CLIENT.format(python=sys.executable, path=str(path))


def serve(path: Path) -> NoReturn:
    """Run a process for each command that comes, for ever."""
    # Dagster describes all types of components each time that it loads a project: most of what the processes would do.
    snapshot.get_package_entry_snap = cache(snapshot.get_package_entry_snap)
    get_library_json_enriched_defs(None)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        while True:
            connection, _ = listening.accept()
            asked = _Asked.of(connection)
            _fork(asked.work if asked.arguments[:1] == ["up"] else asked.run)
            asked.close()


@dataclass(frozen=True)
class _Asked:
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    files: list[int]
    connection: socket.socket

    @classmethod
    def of(cls, connection: socket.socket) -> "_Asked":
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        whole = b""
        while piece := connection.recv(65_536):
            whole += piece
        return cls(*json.loads(whole), files, connection)

    def close(self) -> None:
        self.connection.close()
        for file in self.files:
            os.close(file)

    def run(self) -> None:
        """The command line as it is."""
        _become(self.directory, self.environment)
        for number, file in enumerate(self.files):
            os.dup2(file, number)
        sys.argv = ["agent-pipelines", *self.arguments]
        sys.path[0] = str(Path(sys.executable).parent)
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        self.connection.sendall(str(code if isinstance(code, int) else 0 if code is None else 1).encode())

    def work(self) -> None:
        """What `up` is here: the home, and somebody who executes what is in the queue."""
        server, project = os.getppid(), Path(self.directory)
        configured = self.environment.get("DAGSTER_HOME")
        home = prepare_home(project, Path(configured) if configured else project / ".dagster_home")
        _become(self.directory, {**self.environment, "DAGSTER_HOME": str(home)})
        sys.path[0] = self.directory
        instance = dg.DagsterInstance.get()
        beat = DaemonHeartbeat(timestamp=time.time(), daemon_type=QUEUE_DAEMON, daemon_id=make_new_run_id(), errors=[])
        instance.add_daemon_heartbeat(beat)
        self.connection.sendall(b"0")
        self.close()
        while os.getppid() == server and not (home / "stop").exists():
            if hub_of(instance).database.is_sqlite and _requested(instance):
                os.waitpid(_fork(partial(_launch_requested, project)), 0)
            for run in reversed(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))):
                os.waitpid(_fork(partial(_execute, run)), 0)
            time.sleep(0.1)


def _requested(instance: dg.DagsterInstance) -> Sequence[Tick]:
    """What batches have asked for, which the daemon would launch."""
    hub = hub_of(instance)
    with hub.database.reading() as connection:
        return [tick for tick in hub.ticks.open(connection) if tick.trigger in (SHARD, MERGE) and tick.run_id is None]


def _launch_requested(project: Path) -> None:
    instance = dg.DagsterInstance.get()
    hub = hub_of(instance)
    with Workspace.of_directory(instance, project) as workspace:
        locations = workspace.locations()
        gateway = DagsterGateway(instance, lambda: locations)
        for tick in _requested(instance):
            job, launch, tags = launch_of(tick)
            with hub.database.transaction() as connection:
                hub.ticks.reserve(connection, tick.id, run_id := make_new_run_id())
            gateway.launch(job, launch, run_id=run_id, tags=tags)


def _execute(run: dg.DagsterRun) -> None:
    instance = dg.DagsterInstance.get()
    starting = DagsterEvent(event_type_value=DagsterEventType.PIPELINE_STARTING.value, job_name=run.job_name)
    instance.report_dagster_event(starting, run_id=run.run_id)
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert stored.job_code_origin is not None
    execute_run(recon_job_from_origin(stored.job_code_origin), stored, instance)


def _become(directory: str, environment: dict[str, str]) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
