"""The processes of one deployment on one machine: code servers, web server and daemon, each started again when it dies.

    python -m agent_pipelines.engine.services --host 127.0.0.1 --port 3000 [--workspace FILE]

Runs in the directory of a project, for the instance of DAGSTER_HOME. The web server and the daemon share the code servers.
"""

import argparse
import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from dagster import DagsterInstance
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.load_target import PyProjectFileTarget, WorkspaceFileTarget, WorkspaceLoadTarget

from agent_pipelines.engine.daemon import log_to_stderr

_log = logging.getLogger("agent_pipelines.services")

_POLL = 0.25  # seconds
_BACKOFF = (0.5, 1, 2, 5, 10, 30)  # seconds before another start, by the number of quick deaths in a row
_STEADY = 60.0  # seconds after which a death counts as the first
_GRACE = 15.0  # seconds that a process may take to end


class Service:
    """One process that is kept alive."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._not_before = 0.0
        self._deaths = 0

    def keep(self) -> None:
        """Start it if it does not run."""
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._deaths = 0 if now - self._started_at > _STEADY else self._deaths + 1
            wait = _BACKOFF[min(self._deaths, len(_BACKOFF) - 1)]
            self._not_before = now + wait
            self._process = None
            _log.error("%s ended with exit code %s; it is started again in %g s", self.name, code, wait)
        if self._process is None and now >= self._not_before:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            self._started_at = now
            _log.info("%s is process %d", self.name, self._process.pid)

    def ask_to_end(self) -> None:
        """Send it SIGINT, as a terminal would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self, grace: float) -> None:
        """Wait for its end; kill it after `grace` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not end within %g s and is killed", self.name, grace)
            self._process.kill()
            self._process.wait()


def serve(target: WorkspaceLoadTarget, host: str, port: int) -> None:
    """Keep the processes alive until SIGINT or SIGTERM."""
    with contextlib.ExitStack() as stack:
        instance = stack.enter_context(DagsterInstance.get())
        servers = stack.enter_context(ProxyServerManager(instance, target, code_server_log_level="WARNING"))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-pipelines-")))
        workspace = directory / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": list(servers.get_code_server_specs())}))
        services = [Service(name, command) for name, command in _commands(workspace, host, port)]
        try:
            while True:
                for service in services:
                    service.keep()
                time.sleep(_POLL)
        except KeyboardInterrupt:
            _log.info("asked to stop")
        finally:
            for service in services:
                service.ask_to_end()
            for service in services:
                service.end(_GRACE)


def _commands(workspace: Path, host: str, port: int) -> Iterator[tuple[str, list[str]]]:
    ours = [sys.executable, "-m", "agent_pipelines.cli.main"]
    yield "web server", [*ours, "web", "--host", host, "--port", str(port), "--workspace", str(workspace)]
    yield "daemon", [*ours, "daemon", "--workspace", str(workspace)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--workspace", type=Path, help="workspace file; without it the pyproject.toml of this directory")
    given = parser.parse_args(arguments)
    log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    file = given.workspace
    serve(PyProjectFileTarget("pyproject.toml") if file is None else WorkspaceFileTarget([str(file)]), given.host, given.port)


if __name__ == "__main__":
    main()
