"""The process of a machine that executes runs: takes them from queues, claims them, and says each second that it lives."""

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa
from celery.signals import worker_shutting_down
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.errors import AgentPipelinesError, StorageError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.celery.claims import RunClaims
from agent_pipelines.engine.celery.held import HeldRun
from agent_pipelines.engine.celery.launcher import ClaimingCeleryRunLauncher
from agent_pipelines.engine.celery.settings import TASK
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.engine.home import run_launcher_of
from agent_pipelines.engine.logs import log_to_stderr
from agent_pipelines.engine.periodic import Periodic
from agent_pipelines.engine.place import database_url
from agent_pipelines.engine.warm.child import close_run, finish
from agent_pipelines.engine.warm.host import WarmHost
from agent_pipelines.engine.warm.protocol import Run
from agent_pipelines.engine.warm.storage import keep_connections, keep_metadata
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

_log = logging.getLogger("agent_pipelines.worker")

_BEAT = 1.0  # seconds
# A network that is cut must not hold a beat for longer than a lease.
_IMPATIENT = {
    "connect_timeout": "3",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "4000",
}


class WorkerError(AgentPipelinesError):
    """A worker cannot work for this deployment: says what to change."""


class Worker:
    """Executes runs of some queues, `concurrency` at once, each by the warm process of its code location on this machine."""

    def __init__(self, instance: DagsterInstance, *, queues: Sequence[str], concurrency: int, name: str | None) -> None:
        launcher = run_launcher_of(instance)
        if not isinstance(launcher, ClaimingCeleryRunLauncher):
            raise WorkerError(
                f"dagster.yaml of {instance.root_directory}: run_launcher is {type(launcher).__name__}, which sends nothing to "
                "workers; set module agent_pipelines.engine.celery, class ClaimingCeleryRunLauncher"
            )
        keep_metadata(instance)
        keep_connections(instance)
        self._instance = instance
        self._launcher = launcher
        self._lease = launcher.settings.lease
        self._queues = list(dict.fromkeys(queues)) or [launcher.default_queue]
        self._concurrency = concurrency
        self._host_name = socket.gethostname()
        self._id = new_id()
        self._name = name or f"{self._host_name}-{os.getpid()}"
        self._database = Database(_impatient(database_url(instance)))
        if self._database.is_sqlite:
            raise WorkerError(
                f"dagster.yaml of {instance.root_directory}: workers need storage.postgres; SQLite is for one machine"
            )
        clock = SystemClock()
        self._claims = RunClaims(clock)
        self._workers = Workers(clock)
        self._host = WarmHost(instance, launcher.settings.warm)
        self._held: dict[str, HeldRun] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._is_asked = self._is_in_haste = False

    def run(self, *, log_level: str = "info") -> None:
        """Work until SIGINT or SIGTERM: runs at hand are finished, a second signal ends them. Raises StorageError."""
        log_to_stderr(log_level)
        app = self._launcher.celery
        app.task(name=TASK)(self.execute)
        migrate(self._database)
        with self._database.transaction() as connection:
            self._say(connection)
        worker_shutting_down.connect(self._asked_to_stop, weak=False)
        beating = Periodic("worker heartbeat", self._beat, _BEAT, self._stop).start()
        _log.info("worker %s serves %s, up to %d runs at once", self._name, ", ".join(self._queues), self._concurrency)
        try:
            app.Worker(
                hostname=f"{self._name}@{self._host_name}",
                queues=self._queues,
                pool="threads",
                concurrency=self._concurrency,
                loglevel="WARNING",
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
            ).start()
        finally:
            worker_shutting_down.disconnect(self._asked_to_stop)
            self._stop.set()
            beating.join(_BEAT)
            with self._database.transaction() as connection:
                self._workers.stop(connection, self._id)

    def _asked_to_stop(self, **_: object) -> None:
        # Within the signal's handler: nothing here may wait.
        if not self._is_asked:
            self._is_asked = True
            _log.info("worker %s is asked to stop: %d runs at hand are finished first", self._name, len(self._held))
            return
        self._is_in_haste = True
        for held in list(self._held.values()):
            held.give_up(f"The worker on {self._host_name} was asked to stop, and then to hurry.")

    def _say(self, connection: sa.Connection) -> None:
        told = {"host": self._host_name, "pid": os.getpid(), "queues": self._queues, "concurrency": self._concurrency}
        self._workers.start(connection, self._id, self._name, **told)

    def execute(self, run_id: str, attempt: int) -> None:
        """Execute a run to its end, if it can be claimed; a message that comes late or twice is dropped."""
        if self._is_in_haste:
            return  # the daemon sends it again
        at = time.monotonic()
        with self._database.transaction() as connection:
            claim = self._claims.take(connection, run_id, attempt, worker=self._id, host=self._host_name, pid=os.getpid())
        if claim is None:
            _log.info("run %s, attempt %d: claimed before, superseded or over; the message is dropped", run_id, attempt)
            return
        held = HeldRun(claim, at)
        with self._lock:
            self._held[run_id] = held
        words = None
        try:
            words = self._carry(held)
        except Exception as error:
            _log.exception("run %s: %s", run_id, redactor.text(f"{type(error).__name__}: {error}"))
        finally:
            with self._lock:
                if self._held.get(run_id) is held:
                    del self._held[run_id]
        if words is None:
            return  # what is not said to live any more, the daemon looks after
        try:
            with self._database.transaction() as connection:
                self._claims.end(connection, claim, words)
        except StorageError as error:
            _log.warning("run %s is over, which the daemon will find out: %s", run_id, redactor.text(str(error)))

    def _carry(self, held: HeldRun) -> str | None:
        """Have a run executed; returns how that ended, or None if the run is left as it is."""
        run_id = held.claim.run_id
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return "the run was over before it was begun"
        if run.status is DagsterRunStatus.CANCELING:
            finish(self._instance, run, "The run was cancelled before its process began.")
            return "cancelled"
        order = Run(
            run_id,
            run.job_name,
            resume=run.status is DagsterRunStatus.STARTED,
            lease=self._lease,
            alive_at=held.alive_at,
        )
        if not held.is_ours(self._lease):
            return None  # suspended on the way: what is here may be a later attempt of another worker
        try:
            self._host.clear(run_id)
            self._host.begin(run, order, held.tie)
        except DagsterLaunchFailedError as error:
            return self._fail(held, run, error)
        answer = held.wait()
        if answer is not None:
            return "left to run monitoring" if answer.left else "over"
        if not held.is_ours(self._lease):
            return None
        words = held.given_up or f"The warm process of the run on {self._host_name} is gone."
        self._host.clear(run_id)
        close_run(self._instance, run_id, words)
        return words

    def _fail(self, held: HeldRun, run: DagsterRun, error: DagsterLaunchFailedError) -> str | None:
        words = redactor.text(f"The run could not be begun on {self._host_name}: {error}")
        _log.error("run %s: %s", run.run_id, words)
        if not held.is_ours(self._lease):
            return None
        cause = error.serializable_error_info
        if cause is not None:
            self._instance.report_engine_event(words, run, EngineEventData.engine_error(cause))
        self._host.clear(run.run_id)
        close_run(self._instance, run.run_id, words)
        return words

    def _beat(self) -> None:
        at = time.monotonic()
        with self._lock:
            held = dict(self._held)
        with self._database.transaction() as connection:
            if not self._workers.beat(connection, self._id, running=len(held)):
                self._say(connection)  # it was silent for so long that it was forgotten
            ours = self._claims.beat(connection, self._id, {run_id: each.claim.attempt for run_id, each in held.items()})
        for run_id, each in held.items():
            claim = ours.get(run_id)
            if claim is None:
                each.lose()
                continue
            each.alive(at)
            if claim.cancel_asked_at is not None:
                each.cancel()


def _impatient(url: str) -> str:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return url
    return parsed.update_query_dict(_IMPATIENT).render_as_string(hide_password=False)
