"""The processes of one deployment on one machine: code servers, web server, daemon, poller and workers, each kept alive.

    python -m agent_pipelines.engine.services --host 127.0.0.1 --port 3000 [--workspace FILE]

Runs in the directory of a project, for the instance of DAGSTER_HOME. The web server and the daemon share the code servers, and
begin when these have loaded. Workers are started if `run_launcher.config.local_workers` of dagster.yaml says so. This process has
no Dagster in its memory: it does nothing but start and wait.
"""

import argparse
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_pipelines.engine.logs import log_to_stderr
from agent_pipelines.engine.service import Service
from agent_pipelines.engine.stack_state import StackState, forget_stack
from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.place import WarmPlace

_log = logging.getLogger("agent_pipelines.services")

_POLL = 0.25  # seconds
_GRACE = 12.0  # seconds that all of them together may take to end
_HASTE = 3.0  # seconds more, after they were asked again: a worker then ends its runs


class Stop(Exception):
    """The process that this one works for is gone."""


def serve(workspace: Path | None, host: str, port: int, *, restarts: int = 0, until_eof: bool = False) -> None:
    """Keep the processes alive until SIGINT or SIGTERM, or with `until_eof` until standard input ends.

    `restarts` is how often this process was started again itself.
    """
    said = _Said(Path(os.environ["DAGSTER_HOME"]), f"http://{host}:{port}", restarts)
    services: list[Service] = []
    with tempfile.TemporaryDirectory(prefix="agent-pipelines-") as directory:
        try:
            said.say(services)
            code_servers = _code_servers(workspace, Path(directory))
            services += [Service(f"code server {each['name']}", each["command"]) for each in code_servers]
            # Who began before the code is loaded would show it as broken until it looks again.
            while not all(_answers(each["socket"]) for each in code_servers):
                _keep(services, said, until_eof)
            services += _users_of(Path(directory), host, port)
            while True:
                _keep(services, said, until_eof)
        except KeyboardInterrupt:
            _log.info("asked to stop")
        except Stop:
            _log.warning("the process that started this one is gone: everything stops")
        finally:
            said.say(services, is_ending=True)
            # In the other order: nobody is left without his code.
            for number, grace in ((signal.SIGINT, _GRACE), (signal.SIGTERM, _HASTE)):
                for service in reversed(services):
                    service.ask_to_end(number)
                deadline = time.monotonic() + grace
                for service in reversed(services):
                    service.wait(max(0.0, deadline - time.monotonic()))
            for service in services:
                service.end(0.0)
            WarmPlace(said.home).stop_all()
            forget_stack(said.home)


class _Said:
    """What this process says of itself."""

    def __init__(self, home: Path, url: str, restarts: int) -> None:
        self.home = home
        own, owner = ProcessIdentity.own(), ProcessIdentity.of(os.getppid())
        since_at = time.time_ns() // 1_000
        self._state = StackState(
            HOST, own.pid, own.started, owner.pid, owner.started, since_at, url, restarts, is_ending=False, services=()
        )

    def say(self, services: Sequence[Service], *, is_ending: bool = False) -> None:
        replace(self._state, services=tuple(each.state for each in services), is_ending=is_ending).write(self.home)


def _keep(services: Sequence[Service], said: _Said, until_eof: bool) -> None:
    changed = [service.keep() for service in services]
    if any(changed):
        said.say(services)
    if not until_eof:
        time.sleep(_POLL)
    elif select.select([sys.stdin], [], [], _POLL)[0]:
        raise Stop  # nothing is ever written there


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


def _users_of(directory: Path, host: str, port: int) -> list[Service]:
    ours, workspace = [sys.executable, "-m", "agent_pipelines.cli.main"], str(directory / "workspace.yaml")
    web = [*ours, "web", "--host", host, "--port", str(port), "--workspace", workspace]
    workers = range(1, json.loads((directory / "workers.json").read_text()) + 1)
    return [
        Service("web server", web),
        Service("daemon", [*ours, "daemon", "--workspace", workspace]),
        Service("poller", [*ours, "poller"]),
        *(Service(f"worker {number}", [*ours, "worker"]) for number in workers),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--workspace", type=Path, help="workspace file; without it the pyproject.toml of this directory")
    parser.add_argument("--restarts", type=int, default=0, help="how often this process was started again")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends: its other end is gone")
    given = parser.parse_args(arguments)
    log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(given.workspace, given.host, given.port, restarts=given.restarts, until_eof=given.until_eof)


if __name__ == "__main__":
    main()
