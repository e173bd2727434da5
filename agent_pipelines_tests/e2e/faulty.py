"""A deployment whose processes are killed: a small project, one code server, and daemons in processes of their own."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
import yaml

from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.keeping import keeping_of
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.daemon import run_daemon
from agent_pipelines.engine.gateway import DagsterGateway, StoredRun
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines.hub import Hub
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.e2e.dying import Boundaries

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000
FAULT, CALLS = "fault", "calls"

_DEFINITIONS = """
from pathlib import Path

import dagster as dg

import agent_pipelines
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines_tests.e2e.dying import Boundaries

Boundaries(Path(__file__).with_name("fault")).install()


@dg.definitions
def defs() -> dg.Definitions:
    bursts = BurstSettings.model_validate({"runs": 1, "in_flight": 20, "idle": "5s", "ahead": "10s"})
    return agent_pipelines.definitions(Path(__file__).parent, bursts=bursts)
"""

_AGENT = """
import asyncio
from pathlib import Path


def orders():
    yield from ({"id": f"o{number:03}"} for number in range(240))


async def note(invocation):
    with Path(__file__).parents[1].joinpath("calls").open("a") as calls:
        calls.write(f"{invocation.task}@{invocation.due_at}\\n")
    return "done"


async def check(invocation):
    with Path(__file__).parents[1].joinpath("orders").open("a") as orders:
        orders.write(f"{invocation.item}\\n")
    await asyncio.sleep(0.2)
    return invocation.item
"""

_BATCH = """
retry: {max_attempts: 3, delay: 100ms, idempotent: true}
batch:
  items: {python: 'PACKAGE.defs.noting:orders'}
  key: id
  shard_size: 60
  in_flight: 5
  concurrency: 2
"""

# Forked from one process that has imported everything: a daemon of its own costs a second less.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class FaultyProject:
    """A project on disk whose agent notes each call, and its code server, which every daemon of a test module shares."""

    def __init__(self, root: Path) -> None:
        self._project = Project(root)
        self.package = root / self._project.package
        (self.package / "definitions.py").write_text(_DEFINITIONS)
        self._project.file("noting.py", _AGENT)
        function = f"{self._project.module('noting')}:note"
        self._project.agent("writer", _agent(function))
        self._project.task("single", "pool: single\ntriggers:\n- kind: interval\n  every: 5s\n  enabled: false\n")
        self._project.agent("clerk", _agent(f"{self._project.module('noting')}:check"))
        self._project.task("many_orders", _BATCH.replace("PACKAGE", self._project.package), agent="clerk")
        self.workspace = root / "workspace.yaml"
        self.location: dict[str, Any] = {}
        self._port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Start the code server, where the last one was, and wait until it answers."""
        port = self._port
        self.location = {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": "project"}}
        self.workspace.write_text(yaml.safe_dump({"load_from": [self.location]}))
        module = f"{self._project.package}.definitions"
        command = [sys.executable, "-m", "dagster", "api", "grpc", "--host", "127.0.0.1", "--port", str(port)]
        with (self._project.root / "server.log").open("a") as log:
            self._server = subprocess.Popen(
                [*command, "--module-name", module, "--working-directory", str(self._project.root)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
                cwd=self._project.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert self._server.poll() is None, (self._project.root / "server.log").read_text()
            time.sleep(0.2)

    def kill_server(self) -> None:
        """Kill the code server without warning; runs that are its children are not meant."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def arm(self, boundary: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Have the first process die, or stop, that reaches a boundary."""
        waiting = self.package / "arming"
        waiting.write_text(f"{number.value} {boundary}")
        waiting.rename(self.package / FAULT)

    @property
    def is_armed(self) -> bool:
        return (self.package / FAULT).exists()

    def calls(self) -> Counter[str]:
        """How often the agent was asked, by task and due instant."""
        file = self.package / CALLS
        return Counter(file.read_text().split() if file.exists() else ())

    def close(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._project.close()


@dataclass
class Deployment:
    """A home with its daemons. All that is waited for is read from the record; the test's own time limit ends a vain wait."""

    project: FaultyProject
    home: Path
    daemons: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        self.hub: Hub = hub_of(self.instance)

    def start(self, workspace: Path | None = None) -> Any:
        """Start a daemon; returns its process."""
        file, log = workspace or self.project.workspace, self.home / "daemon.log"
        process = _processes.Process(target=_be_a_daemon, args=(self.home, file, self.project.package, log))
        process.start()
        self.daemons.append(process)
        return process

    def kill(self) -> None:
        """Kill all daemons without warning, and wait for their end."""
        for process in self.daemons:
            process.kill()
        for process in self.daemons:
            process.join()
        self.daemons.clear()

    def close(self) -> None:
        self.kill()
        self.instance.dispose()

    def switch(self, schedule: str, on: bool) -> None:
        """Switch a schedule or a sensor, as somebody does in Dagster's pages."""
        with Workspace(self.instance, self.project.workspace) as workspace:
            DagsterGateway(self.instance, workspace.locations).set_schedule(schedule, on)

    def ticks(self, since: Microseconds, until: Microseconds) -> list[Tick]:
        with self.hub.database.reading() as connection:
            return list(self.hub.ticks.list(connection, due_from=since, due_to=until, limit=100_000))

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Look again and again; a database that is away just now has no answer."""
        while not self._holds(condition):
            time.sleep(0.1)

    @staticmethod
    def _holds(condition: Callable[[], Any]) -> bool:
        try:
            return bool(condition())
        except (StorageError, sa.exc.DBAPIError):
            return False

    def register(self, names: Iterable[str], trigger: Mapping[str, Any]) -> None:
        """Register tasks that are alike."""
        specs = [
            TaskSpec.model_validate(
                {
                    "name": name,
                    "application": "many",
                    "intent": "Note it",
                    "agent": "writer",
                    "prompt": "Go",
                    "triggers": [trigger],
                }
            )
            for name in names
        ]
        self.hub.registry.register_many(specs, Declared(agents=("writer",)), actor="test")

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.hub.registry.remove(("default", "many", name), actor="test")

    def live_bursts(self) -> int:
        with self.hub.database.reading() as connection:
            return len(self.hub.bursts.live(connection))

    def is_decided(self, since: Microseconds, until: Microseconds) -> bool:
        """Whether the clock has looked beyond an instant, and all that was due before has its verdict."""
        with self.hub.database.reading() as connection:
            behind = [each for each in self.hub.triggers.list(connection, on_only=True) if (each.next_due_at or until) < until]
        return not behind and all(tick.verdict is not None for tick in self.ticks(since, until))

    def runs(self) -> list[StoredRun]:
        return list(DagsterGateway(self.instance).runs(limit=1_000))

    def unfinished(self) -> list[StoredRun]:
        return [run for run in self.runs() if not run.is_over]

    def log(self) -> str:
        return (self.home / "daemon.log").read_text()


def make_home(home: Path, changes: Mapping[str, Any]) -> Path:
    """A home with the settings of one machine, except that what is dead is found sooner."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    # Its runs are children of the code server, whose steps can be named; the warm launcher has tests of its own.
    settings["run_launcher"] = {"module": "agent_pipelines.engine.launcher", "class": "WatchedRunLauncher"}
    settings["run_monitoring"] |= {"poll_interval_seconds": 2, "start_timeout_seconds": 90}
    settings["event_log_storage"]["config"]["base_dir"] = str(home)
    settings.update(changes)
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return home


def _be_a_daemon(home: Path, workspace: Path, package: Path, log: Path) -> None:
    """What `agent-pipelines daemon` does, with the boundaries in it."""
    with log.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["DAGSTER_HOME"] = str(home)
    Boundaries(package / FAULT).install()
    with dg.DagsterInstance.get() as instance:
        run_daemon(instance, workspace, keeping_of(hub_of(instance), instance), log_level="info")


def _agent(function: str) -> str:
    return f"type: agent_pipelines.components.Agent\nattributes:\n  runtime: python\n  config:\n    function: {function}\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
