"""The processes of one deployment on one machine: code servers, web server and daemon, each started again when it dies.

    python -m agent_pipelines.engine.services --host 127.0.0.1 --port 3000 [--workspace FILE]

Runs in the directory of a project, for the instance of DAGSTER_HOME. The web server and the daemon share the code servers, and
begin when these have loaded. This process has no Dagster in its memory: it does nothing but start and wait.
"""

import argparse
import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent_pipelines.engine.logs import log_to_stderr

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


def serve(workspace: Path | None, host: str, port: int) -> None:
    """Keep the processes alive until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="agent-pipelines-") as directory:
        code_servers = _code_servers(workspace, Path(directory))
        services = [Service(f"code server {each['name']}", each["command"]) for each in code_servers]
        try:
            # Who began before the code is loaded would show it as broken until it looks again.
            while not all(_answers(each["socket"]) for each in code_servers):
                _keep(services)
            services += _users_of(Path(directory) / "workspace.yaml", host, port)
            while True:
                _keep(services)
        except KeyboardInterrupt:
            _log.info("asked to stop")
        finally:
            # In the other order: nobody is left without his code.
            for service in reversed(services):
                service.ask_to_end()
            for service in reversed(services):
                service.end(_GRACE)


def _keep(services: Sequence[Service]) -> None:
    for service in services:
        service.keep()
    time.sleep(_POLL)


def _code_servers(workspace: Path | None, directory: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "agent_pipelines.engine.code_servers", str(directory)]
    given = [] if workspace is None else ["--workspace", str(workspace)]
    subprocess.run([*command, *given], check=True)
    return json.loads((directory / "code_servers.json").read_text())


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _users_of(workspace: Path, host: str, port: int) -> list[Service]:
    ours = [sys.executable, "-m", "agent_pipelines.cli.main"]
    web = [*ours, "web", "--host", host, "--port", str(port), "--workspace", str(workspace)]
    return [Service("web server", web), Service("daemon", [*ours, "daemon", "--workspace", str(workspace)])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--workspace", type=Path, help="workspace file; without it the pyproject.toml of this directory")
    given = parser.parse_args(arguments)
    log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(given.workspace, given.host, given.port)


if __name__ == "__main__":
    main()
