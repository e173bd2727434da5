"""The warm process: has imported what runs need, and forks a child for each."""

import gc
import logging
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.origin import RepositoryPythonOrigin
from dagster._serdes import deserialize_value

from agent_pipelines.engine.warm.children import ChildProcess, Children
from agent_pipelines.engine.warm.code import Code, LoadError, preload
from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.leash import Leash
from agent_pipelines.engine.warm.order import Order
from agent_pipelines.engine.warm.place import Listening, WarmPlace
from agent_pipelines.engine.warm.protocol import Cancel, Channel, Done, Failed, Message, Run, Stale, Started
from agent_pipelines.engine.warm.settings import WarmSettings
from agent_pipelines.engine.warm.sources import Sources
from agent_pipelines.engine.warm.storage import keep_connections, keep_metadata

_log = logging.getLogger("agent_pipelines.warm")

_LOOK = 0.5  # seconds between looks at the children
_ADOPT = 5.0  # seconds between looks at what other warm processes left behind
_YOUNG = 10.0  # seconds in which loading again would not bring another job
_LONGEST_PATH = 100  # of a unix socket
_FAREWELL = 2.0  # seconds in which a process that could not load its code still says why


class WarmProcess:
    """Listens, forks, looks after its children, and ends when nobody needs it."""

    def __init__(self, order: Order) -> None:
        self._key = order.key
        self._place = WarmPlace(Path(order.home))
        self._settings = WarmSettings.of(order.settings)
        self._own = ProcessIdentity.own()
        self._selector = selectors.DefaultSelector()
        self._asking: dict[Channel, Run] = {}
        self._code = Code(deserialize_value(order.origin, RepositoryPythonOrigin))
        self._sources = Sources(self._place.home)
        self._failure: Failed | None = None
        self._retiring = False
        self._terminated = False
        self._spoken = time.monotonic()
        self._looked = self._adopted = self._loaded = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        reference = deserialize_value(order.instance_ref, InstanceRef)
        self._compute_logs = reference.compute_logs_data.module_name
        instance = DagsterInstance.from_ref(reference)
        keep_metadata(instance)
        keep_connections(instance)
        self._children = Children(self._place, self._settings, instance, self._close_in_child)
        self._directory = _short_directory()

    def run(self, ready: int) -> None:
        """Listen, tell the starter so, load the code, and serve until nobody needs this process."""
        self._listen()
        os.write(ready, b"ready\n")
        os.close(ready)
        try:
            self._load()
            self._serve()
        finally:
            self._leave()

    def _listen(self) -> None:
        path = self._directory / "socket"
        self._socket.bind(str(path))
        self._socket.listen(128)
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        self._children.address = str(path)
        self._place.announce(self._key, Listening(self._own.pid, self._own.started, HOST, str(path)))

    def _load(self) -> None:
        try:
            with self._sources.noting():
                preload((self._compute_logs, *self._settings.preload))
                self._code.load()
        except LoadError as error:
            self._failure = Failed(f"the code cannot be loaded: {error}", error.error)
        except ImportError as error:
            self._failure = Failed(f"run_launcher.config.preload: {error}")
        if self._failure is not None:
            _log.error(self._failure.words)
            self._retire()
        wake, self._wake = socket.socketpair()
        wake.setblocking(False)
        self._wake.setblocking(False)
        self._waker = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._children.adopt()
        self._children.code_is_loaded()
        self._loaded = time.monotonic()
        gc.collect()
        gc.freeze()
        self._spoken = time.monotonic()

    def _serve(self) -> None:
        while not self._is_over():
            self._watch_children()
            for key, _ in self._selector.select(_LOOK if self._children.busy or self._asking else 5.0):
                key.data(key.fileobj)
            if time.monotonic() - self._looked >= _LOOK:
                self._look()

    def _is_over(self) -> bool:
        if self._terminated or not self._place.directory.is_dir():
            return True
        if any(True for _ in self._children) or self._asking:
            return False
        rest = time.monotonic() - self._spoken
        if self._retiring:
            return rest > _FAREWELL
        return rest > self._settings.idle_timeout

    def _look(self) -> None:
        self._looked = time.monotonic()
        if not self._place.directory.is_dir():
            return
        self._children.proceed()
        if self._looked - self._adopted > _ADOPT:
            self._adopted = self._looked
            self._children.adopt()
            if self._place.turn_log(self._key):
                self._place.write_to_log(self._key)
        current = self._place.listening(self._key)
        if not self._retiring and (current is None or current.process != self._own):
            self._retiring = True
            self._children.release_free()
        self._start_asked()

    def _forget_closed(self) -> None:
        for key in list(self._selector.get_map().values()):
            if not isinstance(key.fileobj, int) and key.fileobj.fileno() < 0:
                self._selector.unregister(key.fileobj)  # closed: its number may be given again

    def _watch_children(self) -> None:
        self._forget_closed()
        watched = {key.fd for key in self._selector.get_map().values()}
        for child in self._children:
            if child.channel is not None and child.channel.fileno() not in watched:
                self._selector.register(child.channel, selectors.EVENT_READ, lambda channel, child=child: self._hear(child))
            if child.leash is not None and child.leash.fileno() >= 0 and child.leash.fileno() not in watched:
                self._selector.register(child.leash, selectors.EVENT_READ, self._children.heed)

    def _hear(self, child: ChildProcess) -> None:
        channel = child.channel
        if channel is None:
            return
        self._selector.unregister(channel)
        self._children.hear(child)
        self._start_asked()

    def _accept(self, listener: Any) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._socket.accept()
            channel = Channel(connection)
            self._forget_closed()
            self._selector.register(channel, selectors.EVENT_READ, self._asked)

    def _asked(self, channel: Channel) -> None:
        try:
            messages = channel.arrived()
        except (ValueError, KeyError, TypeError):
            messages = None  # another version of us; it will start a process of its own
        if messages == []:
            return
        self._selector.unregister(channel)
        self._spoken = time.monotonic()
        match messages[0] if messages else None:
            case Run() as run:
                channel.put_back(messages[1:] if messages else [])
                self._asking[channel] = run
                self._start_asked()
            case Cancel() as cancel:
                self._answer(channel, Done() if self._children.cancel(cancel.run_id) else Failed("no such run"))
            case None:
                channel.close()
            case other:
                self._answer(channel, Failed(f"not for a warm process: {other}"))

    def _start_asked(self) -> None:
        most = self._settings.max_children
        for channel, run in list(self._asking.items()):
            stale = self._staleness(run)
            if stale is None and self._failure is None and most is not None and self._children.busy >= most:
                return
            del self._asking[channel]
            if stale is not None:
                self._answer(channel, stale)
            elif self._failure is not None:
                self._answer(channel, self._failure)
            else:
                self._begin(channel, run)

    def _begin(self, channel: Channel, run: Run) -> None:
        if run.lease is None:
            self._answer(channel, self._execute(run))
            return
        leash = Leash(channel, run.lease, run.alive_at)
        said = leash.hear()  # while the code was being loaded
        answer = Failed("its worker has been silent for longer than its lease") if leash.is_torn else self._execute(run)
        if isinstance(answer, Started):
            with suppress(OSError):  # a worker that is gone is noticed at the next look
                channel.send(answer)
            self._children.tie(run.run_id, leash)
            if any(isinstance(message, Cancel) for message in said):
                self._children.cancel(run.run_id)
        else:
            self._answer(channel, answer)

    def _execute(self, run: Run) -> Message:
        try:
            return self._children.execute(run)
        except OSError as error:
            return Failed(f"no process can be started: {error}")

    def _staleness(self, run: Run) -> Stale | None:
        if self._retiring and self._failure is None:
            return Stale("this warm process is retiring")
        words = None
        if (changed := self._sources.changed()) is not None:
            words = f"{changed} has changed"
        elif self._failure is None and not self._code.has_job(run.job_name) and time.monotonic() - self._loaded > _YOUNG:
            words = f"there is no job {run.job_name} yet"  # definitions may come from elsewhere than files
        if words is None:
            return None
        _log.info("%s: a new warm process takes over", words)
        self._retire()
        return Stale(words)

    def _answer(self, channel: Channel, message: Message) -> None:
        with suppress(OSError):
            channel.send(message)
        channel.close()

    def _retire(self) -> None:
        self._retiring = True
        self._place.withdraw(self._key, self._own)
        self._children.release_free()

    def _terminate(self, *_: object) -> None:
        self._terminated = True

    def _woken(self, wake: Any) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4_096):
                pass
        self._children.proceed()
        self._start_asked()

    def _close_in_child(self) -> None:
        for key in list(self._selector.get_map().values()):
            if not isinstance(key.fileobj, int):
                key.fileobj.close()  # type: ignore[attr-defined]
        self._waker.close()
        self._selector.close()
        for channel in self._asking:
            channel.close()

    def _leave(self) -> None:
        with suppress(OSError):
            self._place.withdraw(self._key, self._own)
        self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _short_directory() -> Path:
    directory = tempfile.mkdtemp(prefix="agent-pipelines-")  # for this user only
    if len(directory) > _LONGEST_PATH - len("/socket"):
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="agent-pipelines-", dir="/tmp")
    return Path(directory)


def main(ready: int) -> None:
    """Be a warm process, until nobody needs it."""
    WarmProcess(Order.read()).run(ready)
