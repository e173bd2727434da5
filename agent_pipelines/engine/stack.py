"""Starting and stopping the processes of one deployment on one machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.engine.warm.place import WarmPlace


class StackError(AgentPipelinesError):
    """The processes cannot be started, or died."""


def prepare_home(project: Path, home: Path) -> Path:
    """Make the directory that Dagster keeps its data in, with the project's dagster.yaml; returns it absolute.

    Dagster reads dagster.yaml from this directory only, so the project's file is copied at every start.
    """
    home = home.expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    settings = project / "dagster.yaml"
    if settings.is_file() and settings.resolve() != home / "dagster.yaml":
        shutil.copyfile(settings, home / "dagster.yaml")
    return home


class Stack:
    """Code servers, web server and daemon of a project, in a process group of their own, so that stopping leaves no orphan."""

    def __init__(
        self,
        project: Path,
        home: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 3000,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.project = project
        self.home = home
        self.host = host
        self.port = port or _free_port(host)
        self.log_path = home / "process_logs" / "stack.log"
        self._environment = {**os.environ, **(environment or {}), "DAGSTER_HOME": str(home)}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the web UI is."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The leading process, None while stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the processes. Raises StackError if the port is taken or the project has no workspace."""
        if not _is_free(self.host, self.port):
            raise StackError(f"port {self.port} on {self.host} is in use; stop what uses it or choose another with --port")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("ab")
        command = [sys.executable, "-m", "agent_pipelines.engine.services", "--host", self.host, "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, *self._target()],
            cwd=self.project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Wait until the web server answers and the definitions are loaded.

        Raises StackError with the end of the log if the processes die, or the errors of the definitions.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (code := self.poll()) is not None:
                raise StackError(f"Dagster ended with exit code {code}; the end of {self.log_path}:\n{self.log_tail()}")
            if (locations := self._locations()) is not None:
                errors = [location.error for location in locations if location.error]
                if errors:
                    raise StackError("the definitions cannot be loaded:\n" + "\n".join(errors))
                if locations and all(location.loaded for location in locations):
                    return
            time.sleep(0.25)
        raise StackError(f"Dagster was not ready within {timeout:g} s; the end of {self.log_path}:\n{self.log_tail()}")

    def poll(self) -> int | None:
        """The exit code of the leading process, None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, grace: float = 20.0) -> None:
        """Stop all processes of the group: asked first, killed after `grace` seconds.

        Runs that are at work finish; a burst ends soon, because nothing is claimed any more.
        """
        if self._process is None:
            return
        for number, wait in ((signal.SIGINT, grace), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(wait)
            except subprocess.TimeoutExpired:
                continue
            if not _group_alive(self._process.pid, 5.0):
                break
        self._process = None
        WarmPlace(self.home).stop_all()
        if self._log is not None:
            self._log.close()

    def log_tail(self, lines: int = 30) -> str:
        """The newest lines of the processes' log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def query(self, text: str, variables: Mapping[str, object] | None = None, timeout: float = 30.0) -> dict[str, object]:
        """Ask Dagster's GraphQL interface. Raises StackError if it answers with errors."""
        body = json.dumps({"query": text, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer = json.load(response)
        if answer.get("errors"):
            raise StackError(f"Dagster refused the query: {answer['errors'][0]['message']}")
        return answer["data"]

    def _target(self) -> list[str]:
        workspace = self.project / "workspace.yaml"
        return ["--workspace", str(workspace)] if workspace.is_file() else []

    def _locations(self) -> "list[_Location] | None":
        try:
            data: Any = self.query(_LOCATIONS, timeout=5.0)
        except (OSError, ValueError):
            return None
        return [_Location.of(entry) for entry in data["workspaceOrError"].get("locationEntries", [])]


@dataclass(frozen=True)
class _Location:
    loaded: bool
    error: str | None

    @classmethod
    def of(cls, entry: Any) -> "_Location":
        outcome = entry["locationOrLoadError"] or {}
        error = None
        if outcome.get("__typename") == "PythonError":
            # Dagster's own message says only that loading failed; the last cause says why.
            error = [outcome, *outcome["causes"]][-1]["message"].strip()
        return cls(entry["loadStatus"] == "LOADED", error)


_LOCATIONS = """
query Locations { workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message causes { message } } } } } } }
"""


def _heed_interrupts() -> None:
    # A shell starts background jobs with SIGINT ignored; Dagster would inherit that and could not be asked to stop.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _group_alive(group: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
