"""A process that executes runs: forked from the warm process, or started anew where a fork would not be safe."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.events import EngineEventData
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import deserialize_value
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.interrupts import capture_interrupts, pop_captured_interrupt

from agent_pipelines.engine.warm.code import preload
from agent_pipelines.engine.warm.ending import end_with_parent
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.engine.warm.protocol import Cancel, Channel, Close, Done, Run, Setup
from agent_pipelines.engine.warm.record import RunRecords
from agent_pipelines.engine.warm.storage import keep_connections, keep_metadata

_FINAL = {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}
_OVER = {DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE}
_TRIES, _PAUSE = 5, 2.0
_THREADS_GRACE = 10.0
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


class Child:
    """Executes one run after the other, as it is told."""

    def __init__(self, channel: Channel, instance: DagsterInstance, records: RunRecords, runs: int) -> None:
        self._channel = channel
        self._instance = instance
        self._records = records
        self._runs = runs
        self._pid, self._parent = os.getpid(), os.getppid()

    def serve(self) -> None:
        """Execute what arrives, until nothing more does or the process has served long enough."""
        with capture_interrupts():
            surroundings = _Surroundings()
            for _ in range(self._runs):
                task = self._channel.receive()
                if task is None:
                    return
                pop_captured_interrupt()  # meant for the run before
                left = False
                match task:
                    case Run():
                        self._execute(task)
                    case Close():
                        left = close_run(self._instance, task.run_id, task.words)
                    case _:
                        raise TypeError(f"not for a child: {task}")
                if not left:
                    self._records.remove(task.run_id)
                surroundings.restore()
                try:
                    self._channel.send(Done(left))
                except OSError:
                    return  # the warm process is gone

    def _execute(self, task: Run) -> None:
        run = self._instance.get_run_by_id(task.run_id)
        if run is not None and run.status == DagsterRunStatus.CANCELING:
            finish(self._instance, run, "The run was cancelled before its process began.")
            return
        if run is not None and task.note is not None:
            self._instance.report_engine_event(task.note, run)
        if task.lease is not None:
            end_with_parent(self._parent)
        progress = _Progress(begun=task.resume)
        words, error = "The process of the run returned before the run was over.", None
        body: Callable[..., int] = _resume_run_command_body if task.resume else _execute_run_command_body
        try:
            with _Watch(self._instance, task.run_id, self._channel):
                body(task.run_id, self._instance, progress.note, set_exit_code_on_failure=False)
        except BaseException:
            error = serializable_error_info_from_exc_info(sys.exc_info())
            words = f"The run could not be executed: {error.message.strip()}"
        if os.getpid() != self._pid:
            os._exit(1)  # a fork that the run made of itself has come back
        if progress.over:
            return
        run = self._instance.get_run_by_id(task.run_id)
        if run is None:
            return
        if error is not None:
            self._instance.report_engine_event(words, run, EngineEventData.engine_error(error))
        # Begun by somebody else it is theirs: only what this process began, or nobody, is closed.
        if progress.begun or run.status != DagsterRunStatus.STARTED:
            finish(self._instance, run, words)


class _Progress:
    def __init__(self, *, begun: bool) -> None:
        self.begun = begun
        self.over = False

    def note(self, event: DagsterEvent) -> None:
        self.begun = self.begun or event.event_type is DagsterEventType.RUN_START
        self.over = self.over or event.event_type in _FINAL


class _Watch:
    """Looks now and then whether a run was cancelled or ended elsewhere, by who cannot send a signal to this machine."""

    def __init__(self, instance: DagsterInstance, run_id: str, channel: Channel) -> None:
        self._instance = instance
        self._run_id = run_id
        self._channel = channel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="warm-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._instance.cancellation_thread_poll_interval_seconds):
            with suppress(Exception):  # the storage may be away for a while; the run itself notices if it has to
                run = self._instance.get_run_by_id(self._run_id)
                if (run is None or run.status in _OVER) and not self._ended.is_set():
                    self._end()
                    return

    def _end(self) -> None:
        try:
            self._channel.send(Cancel(self._run_id))
        except OSError:  # the warm process is gone
            os.kill(os.getpid(), signal.SIGINT)


class _Surroundings:
    """What of a process a run may change and the next one should find as it was."""

    def __init__(self) -> None:
        self._directory = os.getcwd()
        self._environment = dict(os.environ)
        self._path = list(sys.path)
        self._handlers = {number: signal.getsignal(number) for number in _HANDLED}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def restore(self) -> None:
        os.chdir(self._directory)
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        sys.path[:] = self._path
        signal.alarm(0)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def close_run(instance: DagsterInstance, run_id: str, words: str) -> bool:
    """End a run whose process is gone, unless run monitoring resumes it: then True."""
    run = _read(instance, run_id)
    if run is None:
        return False
    resumes = instance.run_monitoring_enabled and instance.run_monitoring_max_resume_run_attempts > 0
    if resumes and run.status == DagsterRunStatus.STARTED:
        instance.report_engine_event(words, run)
        return True
    finish(instance, run, words)
    return False


def _read(instance: DagsterInstance, run_id: str) -> DagsterRun | None:
    for _ in range(_TRIES):
        with suppress(Exception):  # what ended the process may have taken the storage away for a moment, too
            return instance.get_run_by_id(run_id)
        time.sleep(_PAUSE)
    return instance.get_run_by_id(run_id)


def finish(instance: DagsterInstance, run: DagsterRun, words: str) -> None:
    """Write down that a run is over: cancelled if somebody asked for that, failed otherwise."""
    if run.is_finished:
        return
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, words)
    else:
        instance.report_run_failed(run, words)


def run_forked(connection: socket.socket, instance: DagsterInstance, records: RunRecords, runs: int) -> None:
    """Be a child that was just forked. Does not return."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # all children would draw the same numbers
    _exit(_serve, Child(Channel(connection), instance, records, runs))


def run_spawned(descriptor: int) -> None:
    """Be a child that was started anew. Does not return."""
    channel = Channel(socket.socket(fileno=descriptor))
    setup = channel.receive()
    assert isinstance(setup, Setup)
    preload(setup.preload)
    place = WarmPlace(Path(setup.directory))
    with DagsterInstance.from_ref(deserialize_value(setup.instance_ref, InstanceRef)) as instance:
        keep_metadata(instance)
        keep_connections(instance)
        _exit(_serve, Child(channel, instance, place.records, setup.runs))


def _serve(child: Child) -> None:
    child.serve()
    deadline = time.monotonic() + _THREADS_GRACE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))


def _exit(function: Callable[[Any], None], argument: Any) -> None:
    code = 1
    try:
        function(argument)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
