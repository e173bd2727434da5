"""The code locations of a daemon, which are loaded before it leads."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import RELOAD_WORKSPACE_INTERVAL, create_daemon_grpc_server_registry

from agent_pipelines.engine.periodic import Periodic

_ENDING = 5.0  # seconds


class LiveWorkspace:
    """The code locations that a workspace file names, loaded when they are first needed. Use it as a context manager.

    Code servers that are not running already are started, and end with this process.
    """

    def __init__(self, instance: DagsterInstance, file: Path) -> None:
        self._instance = instance
        self._target = WorkspaceFileTarget([str(file)])
        self._context: WorkspaceProcessContext | None = None
        self._read_at = 0.0
        self._leads = threading.Event()
        self._reading = Periodic("workspace", self._read_again, 1.0, self._leads)
        self._stack = ExitStack()
        self.servers = create_daemon_grpc_server_registry(instance, code_server_log_level="warning")

    def stand_by(self) -> None:
        """Have the code loaded, and from then on read it again as often as a daemon does that leads."""
        if self._context is None:
            self._load()
            self._reading.start()

    def lead(self) -> WorkspaceProcessContext:
        """The code locations, for Dagster's daemons, which read them again themselves."""
        self._leads.set()
        return self._context or self._load()

    def _load(self) -> WorkspaceProcessContext:
        # One that cannot be loaded is an entry with its error, and no exception.
        context = WorkspaceProcessContext(self._instance, self._target, grpc_server_registry=self.servers)
        self._context, self._read_at = self._stack.enter_context(context), time.monotonic()
        return context

    def _read_again(self) -> None:
        if self._context is not None and time.monotonic() - self._read_at >= RELOAD_WORKSPACE_INTERVAL:
            self._read_at = time.monotonic()
            self.servers.clear_all_grpc_endpoints()
            self._context.refresh_workspace()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.servers)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._leads.set()
        self._reading.join(_ENDING)
        self._stack.close()
