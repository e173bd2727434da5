"""The processes of one warm process: those that it started, and those that it took over from a dead one."""

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psutil
from dagster import DagsterInstance
from dagster._serdes import serialize_value

from agent_pipelines.engine.warm.child import run_forked
from agent_pipelines.engine.warm.code import connections_left, threads_left
from agent_pipelines.engine.warm.ending import Ending, kill_tree
from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.leash import Leash
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.engine.warm.protocol import Cancel, Channel, Close, Done, Failed, Run, Setup, Started
from agent_pipelines.engine.warm.record import RunRecord
from agent_pipelines.engine.warm.settings import WarmSettings

_log = logging.getLogger("agent_pipelines.warm")

_IDLE = 60.0  # seconds that a free child is kept


@dataclass
class ChildProcess:
    """One child, as its parent sees it."""

    process: ProcessIdentity
    channel: Channel | None = None
    """None for one that was taken over, or has nothing more to say."""
    spawned: "subprocess.Popen[bytes] | None" = None
    task: Run | Close | None = None
    run_id: str | None = None
    served: int = 0
    free_since: float = field(default_factory=time.monotonic)
    ending: Ending | None = None
    status: int | None = None
    words: str | None = None
    """Why we end it."""
    leash: Leash | None = None
    leaving: bool = False
    """Whether it ends by itself, and gets no further run."""

    @property
    def is_free(self) -> bool:
        return self.run_id is None and not self.leaving

    adopted: bool = False
    """Whether it is no child of ours."""

    def is_over(self) -> bool:
        """Whether it has ended; then `status` is how, if that can be known."""
        if self.adopted:
            return not self.process.is_alive()
        if self.spawned is not None:
            self.status = self.spawned.poll()
            return self.status is not None
        pid, status = os.waitpid(self.process.pid, os.WNOHANG)
        if pid != 0:
            self.status = os.waitstatus_to_exitcode(status)
        return pid != 0


class Children:
    """Starts them, gives them runs, ends them, and sees to it that no run stays open behind one."""

    def __init__(
        self, place: WarmPlace, settings: WarmSettings, instance: DagsterInstance, close_in_child: Callable[[], None]
    ) -> None:
        self._records = place.records
        self._place = place
        self._settings = settings
        self._instance = instance
        self._close_in_child = close_in_child
        self._own = ProcessIdentity.own()
        self._children: list[ChildProcess] = []
        self._connections: str | None = None
        self.address = ""
        """Where the warm process listens, for the records."""

    def __iter__(self) -> Iterator[ChildProcess]:
        return iter(list(self._children))

    @property
    def busy(self) -> int:
        """How many have something to do."""
        return sum(child.run_id is not None for child in self._children)

    def code_is_loaded(self) -> None:
        """Look once at what the code left open: nothing of it is executed here again."""
        self._connections = connections_left()

    def execute(self, task: Run) -> Started | Failed:
        """Give a run to a free child, or to a new one. A run that has a process already goes on in it."""
        if (there := self._records.get(task.run_id)) is not None:
            return _of(there)
        refusal = None
        child = next((child for child in reversed(self._children) if child.is_free), None)
        if child is None:
            refusal = self._refusal()
            child = self._start(self._settings.runs_of_a_child, spawn=refusal is not None)
        if refusal is not None:
            note = f"The run has a process of its own that loads the code anew: {refusal}."
            _log.info(note)
            task = replace(task, note=note)
        record = RunRecord(
            task.run_id,
            HOST,
            child.process.pid,
            child.process.started,
            self._own.pid,
            self._own.started,
            self.address,
            leased=task.lease is not None,
        )
        there = self._records.create(record)
        if there is not None:
            self._release(child)
            return _of(there)
        child.run_id = task.run_id
        self._give(child, task)
        return Started(child.process.pid)

    def adopt(self) -> None:
        """Take over the children of warm processes that died."""
        for record in self._records.adopt(self._own, self.address):
            child = ChildProcess(record.process, run_id=record.run_id, adopted=True)
            self._children.append(child)
            if record.cancelled:
                self._end(child)

    def cancel(self, run_id: str) -> bool:
        """Begin to end the child of a run; whether there is one."""
        for child in self._children:
            if child.run_id == run_id and not isinstance(child.task, Close):
                if child.ending is None:
                    self._records.cancel(run_id)
                    self._end(child)
                return True
        return False

    def tie(self, run_id: str, leash: Leash) -> None:
        """Let a run that was just started depend on its worker."""
        for child in self._children:
            if child.run_id == run_id:
                child.leash = leash

    def heed(self, leash: Leash) -> None:
        """Take what a worker says about its run."""
        for message in leash.hear():
            if isinstance(message, Cancel):
                self.cancel(message.run_id)
        if leash.is_torn:
            self.proceed()

    def hear(self, child: ChildProcess) -> None:
        """Take what a child says."""
        assert child.channel is not None
        messages = child.channel.arrived()
        for message in messages or []:
            match message:
                case Done():
                    self._done(child, message)
                case Cancel():
                    self.cancel(message.run_id)
                case _:
                    raise TypeError(f"not from a child: {message}")
        if messages is None:
            child.channel.close()
            child.channel = None

    def proceed(self) -> None:
        """Look after all of them: who ended, who is to end, who takes too much."""
        for child in list(self._children):
            if child.is_over():
                if child.channel is not None:
                    self.hear(child)  # what it said last
                self._children.remove(child)
                self._buried(child)
            elif child.leash is not None and child.leash.is_torn:
                kill_tree(child.process)
            elif child.ending is not None:
                child.ending.proceed()
            elif child.is_free and time.monotonic() - child.free_since > _IDLE:
                self._release(child)
            elif child.run_id is not None:
                self._weigh(child)

    def release_free(self) -> None:
        """Let all free children go."""
        for child in self._children:
            if child.is_free:
                self._release(child)

    def _refusal(self) -> str | None:
        return threads_left(self._settings.allowed_threads) or self._connections

    def _start(self, runs: int, *, spawn: bool) -> ChildProcess:
        ours, theirs = socket.socketpair()
        spawned = None
        if spawn:
            command = [sys.executable, "-m", "agent_pipelines.engine.warm", "child", str(theirs.fileno())]
            spawned = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True)
            pid = spawned.pid
        else:
            pid = os.fork()
            if pid == 0:
                try:
                    ours.close()
                    self._forget()
                    run_forked(theirs, self._instance, self._records, runs)
                finally:
                    os._exit(1)  # whatever happens, it never goes on as a second warm process
        theirs.close()
        channel = Channel(ours)
        child = ChildProcess(ProcessIdentity.of(pid), channel, spawned)
        self._children.append(child)
        if spawn:
            reference = serialize_value(self._instance.get_ref())
            home = str(self._place.home)
            with suppress(OSError):
                channel.send(Setup(reference, home, runs, list(self._settings.preload)))
        return child

    def _forget(self) -> None:
        self._close_in_child()
        for child in self._children:
            if child.channel is not None:
                child.channel.close()
            if child.leash is not None:
                child.leash.close()
        gc.enable()

    def _give(self, child: ChildProcess, task: Run | Close) -> None:
        child.task = task
        child.served += 1
        if child.channel is not None:
            with suppress(OSError):  # it died: that is noticed like any other death
                child.channel.send(task)

    def _done(self, child: ChildProcess, message: Done) -> None:
        task, child.task, child.run_id, child.ending = child.task, None, None, None
        child.free_since = time.monotonic()
        if child.leash is not None:
            child.leash.let_go(left=message.left)
            child.leash = None
        if isinstance(task, Close) and message.left:
            _log.info("run %s: %s Left to run monitoring.", task.run_id, task.words)
        if isinstance(task, Close) or child.served >= self._settings.runs_of_a_child:
            child.leaving = True

    def _release(self, child: ChildProcess) -> None:
        if child.channel is not None:
            child.channel.close()
            child.channel = None
        child.leaving = True

    def _end(self, child: ChildProcess) -> None:
        child.ending = Ending(
            child.process,
            grace_after_interrupt=self._settings.grace_after_interrupt,
            grace_after_terminate=self._settings.grace_after_terminate,
        )
        child.ending.proceed()

    def _weigh(self, child: ChildProcess) -> None:
        limit = self._settings.memory_limit_mb
        if limit is None:
            return
        with suppress(psutil.Error):
            used = psutil.Process(child.process.pid).memory_info().rss // 2**20
            if used > limit:
                child.words = f"The process of the run took {used} MB of memory; memory_limit_mb of run_launcher is {limit}."
                child.process.send_group(signal.SIGKILL)

    def _buried(self, child: ChildProcess) -> None:
        """A child is gone: what its runs started goes with it, and if it left a run behind, that is closed."""
        child.process.send_group(signal.SIGKILL)
        if child.run_id is None:
            return
        if child.leash is not None and child.leash.is_torn:
            # Whether the run goes on elsewhere is known to those who can see the claims.
            _log.warning("run %s: its worker is gone or was cut off, so its processes were killed", child.run_id)
            child.leash.close()
            self._records.remove(child.run_id)
            return
        if isinstance(child.task, Close):
            if child.leash is not None:
                child.leash.close()  # its worker closes the run then
            _log.error("run %s could not be closed: %s", child.run_id, _how(child.status))
            return
        words = child.words or f"{_how(child.status)} before the run was over."
        if not self._records.end(child.run_id, child.process, words):
            if child.leash is not None:
                child.leash.let_go(left=False)  # it ended between the end of its run and the word of it
            return
        task = Close(child.run_id, words)
        closing = self._start(1, spawn=self._refusal() is not None)
        closing.run_id, closing.leash = child.run_id, child.leash
        self._give(closing, task)


def _of(record: RunRecord) -> Started | Failed:
    if record.is_here and record.ended is None and record.process.is_alive():
        return Started(record.pid)
    return Failed(f"run {record.run_id} had process {record.pid} on {record.host}, and it is not known whether that is over")


def _how(status: int | None) -> str:
    if status is None:
        return "The process of the run is gone"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"The process of the run was killed by {name}"
    return f"The process of the run ended with exit code {status}"
