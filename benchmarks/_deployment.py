"""A project with its home, its database and the real processes, made for one benchmark and removed after it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
import yaml
from _meter import Meter, ServerMeter

from agent_pipelines.core.declared import Declared
from agent_pipelines.engine.stack import Stack, prepare_home
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.registry.reading import read_spec

AGENT = "agent"
"""Name of the agent of every deployment here."""

_AGENT = """\
type: agent_pipelines.components.Agent
attributes:
  runtime: openai
  config:
    base_url: {url}
    model: none
    stream: false
"""


class Postgres:
    """The server that AGENT_PIPELINES_TEST_DSN names, or one of the test dependencies that waits for the disk."""

    def __init__(self) -> None:
        self._server = None
        dsn = os.environ.get("AGENT_PIPELINES_TEST_DSN")
        if dsn is None:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from agent_pipelines_tests.postgres import PostgresServer

            self._server = PostgresServer(is_durable=True)
            dsn = self._server.dsn
        self._dsn = dsn

    def meter(self) -> ServerMeter:
        """What counts the CPU time of the server, if it is ours."""
        return ServerMeter(None if self._server is None else self._server.pid)

    def new_database(self) -> str:
        """The URL of a fresh database."""
        name = f"benchmark_{time.time_ns()}"
        engine = sa.create_engine(self._dsn, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return sa.make_url(self._dsn).set(database=name).render_as_string(hide_password=False)

    def stop(self) -> None:
        """Stop the server, if it is ours."""
        if self._server is not None:
            self._server.stop()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for a while."""
    server = Postgres()
    try:
        yield server
    finally:
        server.stop()


class Deployment:
    """A new project as `agent-pipelines init` makes it, with one agent and the tasks that are given, and its processes.

    Without a URL its records are in SQLite, as they are by default.
    """

    def __init__(
        self, directory: Path, *, agent_url: str, tasks: Mapping[str, str] | None = None, url: str | None = None
    ) -> None:
        _command("init", "benchmark", "--directory", str(directory), cwd=directory)
        self.project = directory / "benchmark"
        defs = self.project / "benchmark" / "defs"
        shutil.rmtree(defs / "hello")
        (defs / "agents" / AGENT).mkdir()
        (defs / "agents" / AGENT / "defs.yaml").write_text(_AGENT.format(url=agent_url))
        for name, text in (tasks or {}).items():
            (defs / name).mkdir()
            (defs / name / "defs.yaml").write_text(text)
        if url is not None:
            settings = yaml.safe_load((self.project / "dagster.yaml").read_text())
            settings.pop("event_log_storage")
            settings["storage"] = {"postgres": {"postgres_url": url}}
            (self.project / "dagster.yaml").write_text(yaml.safe_dump(settings))
        self.home = prepare_home(self.project, directory / "home")
        self.url = url or f"sqlite:///{self.home / 'agent_pipelines.db'}"
        self.stack = Stack(self.project, self.home, port=0)
        self.meter = Meter(self.home)

    @property
    def hub(self) -> Hub:
        """The nouns over the deployment's database."""
        return open_hub(self.url)

    def register(self, tasks: Iterable[Mapping[str, Any]]) -> float:
        """Register tasks of the agent; returns seconds."""
        began = time.perf_counter()
        self.hub.registry.register_many([read_spec(task) for task in tasks], Declared(agents=(AGENT,)), actor="benchmark")
        return time.perf_counter() - began

    def audit(self, since: str) -> tuple[str, bool]:
        """What `tick audit` prints, and whether the books close."""
        done = _command("tick", "audit", "--since", since, cwd=self.project, environment=self._environment, check=False)
        return done.stdout.strip(), done.returncode == 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """The processes for a while. Afterwards none of them is left, whatever happened."""
        with self._leaving_nothing():
            try:
                self.stack.start()
                self.stack.wait_until_ready(300.0)
                yield
            finally:
                self.stack.stop()

    @contextmanager
    def serving_code(self) -> Iterator[Path]:
        """Only the code servers, as the stack starts them; gives the workspace file by which daemons reach them."""
        with self._leaving_nothing():
            directory = self.home / "code"
            directory.mkdir()
            self.start("agent_pipelines.engine.code_servers", str(directory), "--workspace", "workspace.yaml").wait()
            for each in json.loads((directory / "code_servers.json").read_text()):
                subprocess.Popen(each["command"], cwd=self.project, env=self._environment, start_new_session=True)
                while not Path(each["socket"]).exists():
                    time.sleep(0.1)
            yield directory / "workspace.yaml"

    def start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process of a module in the directory of the project; what it says is in the home, in `processes.log`."""
        with (self.home / "processes.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.project,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        with self.meter:
            try:
                yield
            finally:
                left = self.meter.processes()
                for process in left:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, 10.0)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "COLUMNS": "200", "DAGSTER_HOME": str(self.home)}


def _command(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "agent_pipelines.cli.main", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise SystemExit(f"agent-pipelines {' '.join(arguments)} failed:\n{done.stderr}")
    return done


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary directory; what ends the script ends it cleanly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="agent-pipelines-benchmark-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def quantile(values: Iterable[float], share: float) -> float:
    """The value that a share of all is not above; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def load() -> str:
    """How busy the machine was in the last minute."""
    return f"load {os.getloadavg()[0]:.1f}"
