"""Finds the warm process of a code location, or starts it."""

import hashlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

from dagster import DagsterInstance
from dagster._core.origin import RepositoryPythonOrigin
from dagster._serdes import serialize_value

from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.engine.warm.identity import ProcessIdentity
from agent_pipelines.engine.warm.order import Order
from agent_pipelines.engine.warm.place import Listening, WarmPlace
from agent_pipelines.engine.warm.settings import WarmSettings

# Numeric libraries start a thread for each processor when they are imported, which would make a fork unsafe.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

# Differ from one shell to the next and mean nothing to the code.
_OF_THE_SHELL = {"_", "SHLVL", "OLDPWD", "PWD", "TERM", "COLUMNS", "LINES", "PYTEST_CURRENT_TEST"}

_TAIL = 4_000


class StartError(AgentPipelinesError):
    """A warm process cannot be started, or died."""


class Starter:
    """Starts the warm process of one code location of one deployment."""

    def __init__(
        self, place: WarmPlace, settings: WarmSettings, instance: DagsterInstance, origin: RepositoryPythonOrigin
    ) -> None:
        self._place = place
        self._settings = settings
        self._reference = serialize_value(instance.get_ref())
        self._origin = serialize_value(origin)
        self._python = origin.executable_path or sys.executable
        self._environment = dict.fromkeys(_ONE_THREAD, "1") | os.environ
        self.key = self._key()

    def listening(self, deadline: float, *, other_than: ProcessIdentity | None = None) -> Listening:
        """The warm process that listens, started if there is none. Raises StartError, TimeoutError."""
        found = self._place.listening(self.key)
        if found is None or found.process == other_than:
            self._place.prepare()
            with self._place.lock(self.key, deadline - time.monotonic()):
                found = self._place.listening(self.key)
                if found is None or found.process == other_than:
                    found = self._start(deadline)
        return found

    def log_tail(self) -> str:
        """The newest lines of its log."""
        try:
            text = self._place.log_path(self.key).read_text(errors="replace")
        except OSError:
            return ""
        return text[-_TAIL:].strip()

    def _key(self) -> str:
        # A process with another environment, directory or settings would execute another thing.
        environment = sorted((name, value) for name, value in self._environment.items() if name not in _OF_THE_SHELL)
        parts = [self._reference, self._origin, self._settings.to_config(), environment, os.getcwd()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _start(self, deadline: float) -> Listening:
        order = Order(str(self._place.home), self.key, self._reference, self._origin, self._settings.to_config())
        reading, writing = os.pipe()
        self._place.turn_log(self.key)
        try:
            with os.fdopen(self._place.open_log(self.key), "ab") as log:
                process = self._popen(writing, log)
        finally:
            os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            try:
                assert process.stdin is not None
                with process.stdin:
                    process.stdin.write(json.dumps(asdict(order)).encode())
            except BrokenPipeError:
                pass
            readable, _, _ = select.select([answer], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                process.kill()
                raise TimeoutError
            if not answer.readline():
                raise StartError(
                    f"the warm process ended with exit code {process.wait()}; the end of its log:\n{self.log_tail()}"
                )
        found = self._place.listening(self.key)
        if found is None:
            raise StartError(f"the warm process ended at once; the end of its log:\n{self.log_tail()}")
        return found

    def _popen(self, writing: int, log: IO[Any]) -> "subprocess.Popen[bytes]":
        command = [self._python, "-m", "agent_pipelines.engine.warm", "process", str(writing)]
        environment: Mapping[str, str] = self._environment
        try:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(
                f"{self._python} cannot be started ({error.strerror}); the code location has to be on this machine"
            ) from error
