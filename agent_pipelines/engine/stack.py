"""Starting and stopping the processes of one deployment on one machine."""

import errno
import fcntl
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.engine.stack_state import StackState, forget_stack
from agent_pipelines.engine.warm.place import WarmPlace

_ENDING = 20.0  # seconds that a stack without an owner may take to end
_FULL = 16 * 2**20  # bytes of a log after which the next start begins another


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
    """Code servers, web server, daemon, poller and workers of a project, in one process group: stopping leaves no orphan."""

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
        self._lock: IO[bytes] | None = None
        self._starts = 0

    @property
    def url(self) -> str:
        """Where the web UI is."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The leading process, None while stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the processes. They stop when this process ends, however it does.

        Raises StackError if another process runs this home, or if the address cannot be had.
        """
        self._lock = _lock(self.home)
        try:
            _end_remains(self.home)
            _require_free(self.host, self.port)
            self._starts += 1
            self._process = self._popen(self._lock)
        except BaseException:
            self._lock.close()
            raise

    def _popen(self, lock: IO[bytes]) -> "subprocess.Popen[bytes]":
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > _FULL:
            os.replace(self.log_path, self.log_path.with_name(f"{self.log_path.name}.1"))
        self._log = self.log_path.open("ab")
        command = [sys.executable, "-m", "agent_pipelines.engine.services", "--host", self.host, "--port", str(self.port)]
        return subprocess.Popen(
            [*command, *self._target(), "--until-eof", "--restarts", str(self._starts - 1)],
            cwd=self.project,
            env=self._environment,
            stdin=subprocess.PIPE,  # that it sees the end of this process
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
            pass_fds=[lock.fileno()],  # the home stays locked while either of the two lives
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
        """Stop all processes: the leading one is asked first, the whole group is killed after `grace` seconds.

        Runs that are at work finish; a burst ends soon, because nothing is claimed any more.
        """
        if self._process is None:
            return
        # Only the leading one, which asks the others in their order; who is asked twice takes it for impatience.
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        # Also if it was killed itself: what it had started may be left.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not _group_alive(self._process.pid, 5.0):
                break
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
        # One that was killed has not done it.
        WarmPlace(self.home).stop_all()
        forget_stack(self.home)
        for file in (self._log, self._lock):
            if file is not None:
                file.close()

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


def _require_free(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise StackError(
                f"{host}:{port} cannot be listened on ({error.strerror}); name another with --host or --port"
            ) from error
        raise StackError(f"port {port} on {host} is in use; stop what uses it or choose another with --port") from error


def _lock(home: Path) -> IO[bytes]:
    """Take the lock of a home. One that ends, because its owner is gone, is waited for; raises StackError for another."""
    file = (home / "stack.lock").open("ab")
    deadline = time.monotonic() + _ENDING
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            state = StackState.of_home(home)
            # Nothing is said yet by one that begins, and no more by one that is about to end.
            is_passing = state is None or (state.is_alive and not state.owner.is_alive())
            if is_passing and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            file.close()
            raise StackError(_taken(home, state)) from None


def _taken(home: Path, state: StackState | None) -> str:
    if state is None or not state.is_here:
        where = "" if state is None else f" on {state.host}"
        return f"{home} is run by another process{where}; stop that, or name another home with DAGSTER_HOME"
    since = isoformat(state.since_at - state.since_at % 1_000_000)
    return (
        f"process {state.owner_pid} runs {home} already, on {state.url} since {since}; "
        f"stop it with `kill {state.owner_pid}`, or name another home with DAGSTER_HOME"
    )


def _end_remains(home: Path) -> None:
    """End what a stack has left behind whose leading processes were killed; without the lock nobody looks after it."""
    state = StackState.of_home(home)
    if state is None or not state.is_here:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _ENDING
        if not any(service.is_alive for service in state.services):
            break
        state.process.send_group(number)
        while any(service.is_alive for service in state.services) and time.monotonic() < deadline:
            time.sleep(0.05)
    forget_stack(home)


def _group_alive(group: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
