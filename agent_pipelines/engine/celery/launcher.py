"""A run launcher that sends runs to workers on other machines, and knows by the claims what became of them."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self, cast

from celery.exceptions import OperationalError
from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import EngineEventData
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG
from redis.exceptions import RedisError

from agent_pipelines.core.clock import SystemClock
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.beats import STALE
from agent_pipelines.engine.celery.claims import RunClaim, RunClaims
from agent_pipelines.engine.celery.settings import CONFIG, OURS, TASK, CelerySettings, celery_config
from agent_pipelines.engine.celery.silence import Silence
from agent_pipelines.engine.celery.workers import StoredWorker, Workers
from agent_pipelines.engine.place import database_url
from agent_pipelines.engine.warm.child import close_run, finish
from agent_pipelines.store.database import Database

_log = logging.getLogger("agent_pipelines.celery")

_SECOND = 1_000_000
_MOST_STARTS = 3  # workers that may be lost with a run before it has begun
_AWAY = (OperationalError, RedisError, OSError)
_SWEEP = 10.0  # seconds
_WAS_OVER = "the run was over before a worker had it"
_IN_SECONDS = 1.0  # a message that young is on its way


class ClaimingCeleryRunLauncher(CeleryRunLauncher):
    """Sends each run to a queue, from which one worker claims it; the claim, a row, is all that is believed.

    A message is a hint: it may come late, twice or never. Needs `agent-pipelines daemon`, which calls `look_after`.
    """

    def __init__(
        self,
        default_queue: str,
        broker: str | None = None,
        config_source: Mapping[str, Any] | None = None,
        settings: CelerySettings | None = None,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self.settings = settings or CelerySettings()
        source = celery_config(self.settings, config_source or {})
        super().__init__(default_queue, broker=broker, config_source=source, inst_data=inst_data)
        redactor.register(self.celery.connection_for_write().password)
        self._clock = SystemClock()
        self._claims = RunClaims(self._clock)
        self._workers = Workers(self._clock)
        self._silence = Silence()
        self._swept_at = 0.0

    @classmethod
    def config_type(cls) -> Any:
        return CONFIG

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        ours = {name: value for name, value in config_value.items() if name in OURS}
        others = {name: value for name, value in config_value.items() if name not in OURS}
        return cls(**others, settings=CelerySettings.of(ours), inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        self._issue(context.dagster_run)

    def resume_run(self, context: ResumeRunContext) -> None:
        self._issue(context.dagster_run)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        with self._database.transaction() as connection:
            claim = self._claims.get(connection, run_id)
            is_held = self._claims.cancel(connection, run_id)
        if claim is not None and not is_held and (now := self._instance.get_run_by_id(run_id)) is not None:
            finish(self._instance, now, "No worker was executing the run.")
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a worker has a run, by its claim. What cannot be known counts as alive: a failure could not be undone."""
        with self._database.reading() as connection:
            claim = self._claims.get(connection, run.run_id)
        if claim is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the run was not sent to a worker")
        if claim.ended_at is not None:
            now = self._instance.get_run_by_id(run.run_id)
            is_over = now is None or now.is_finished
            return CheckRunHealthResult(
                WorkerStatus.SUCCESS if is_over else WorkerStatus.FAILED, claim.ending, False, claim.worker
            )
        if claim.claimed_at is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"the run waits for a worker of queue {claim.queue!r}")
        if self._is_lost(claim):
            return CheckRunHealthResult(WorkerStatus.FAILED, self._words(claim), False, claim.worker)
        return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=claim.worker)

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        with self._database.reading() as connection:
            claim = self._claims.get(connection, run.run_id)
        if claim is None:
            return None
        if claim.claimed_at is None:
            return f"attempt {claim.attempt} waits for a worker of queue {claim.queue!r}"
        return f"attempt {claim.attempt}, worker process {claim.pid} on {claim.host}; {claim.ending or 'not ended'}"

    def look_after(self) -> None:
        """See to it that every run which was sent comes to an end; called each second by the daemon."""
        with self._database.reading() as connection:
            claims = self._claims.open(connection)
            workers = self._workers.known(connection)
        served = {queue for each in workers if not self._is_silent(each) for queue in each.queues}
        now = self._clock.now()
        waiting = [claim for claim in claims if claim.claimed_at is None]
        for claim in waiting:
            if claim.queue not in served and now - claim.queued_at > self.settings.unserved_after * _SECOND:
                self._tell_unserved(claim)
        for queue in {claim.queue for claim in waiting} & served:
            self._look_after_queue(queue, [claim for claim in waiting if claim.queue == queue])
        for claim in claims:
            if claim.claimed_at is not None and self._is_lost(claim):
                self._lose(claim)
        self._silence.keep({claim.run_id for claim in claims} | {each.id for each in workers})
        self._sweep(waiting)

    @cached_property
    def _database(self) -> Database:
        database = Database(database_url(self._instance))
        if database.is_sqlite:
            raise StorageError("dagster.yaml: ClaimingCeleryRunLauncher needs storage.postgres; SQLite is for one machine")
        return database

    def _sweep(self, waiting: Sequence[RunClaim]) -> None:
        """Now and then: claims whose run was ended by others, and runs whose daemon died before there was a claim."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP:
            return
        self._swept_at = now
        over = {run.run_id for run in self._runs(run_ids=[claim.run_id for claim in waiting]) if run.is_finished}
        with self._database.transaction() as connection:
            for claim in waiting:
                if claim.run_id in over:
                    self._claims.end(connection, claim, _WAS_OVER)
        long_ago = datetime.fromtimestamp(time.time() - _SWEEP, UTC)
        for run in self._instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING], updated_before=long_ago)):
            with self._database.reading() as connection:
                claim = self._claims.get(connection, run.run_id)
            if claim is None or claim.ended_at is not None:
                self._begin_again(run, 0 if claim is None else claim.attempt, "Nobody was about to execute the run.")

    def _runs(self, run_ids: Sequence[str]) -> Sequence[DagsterRun]:
        return self._instance.get_runs(RunsFilter(run_ids=list(run_ids))) if run_ids else []

    def _issue(self, run: DagsterRun) -> None:
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        with self._database.transaction() as connection:
            claim = self._claims.issue(connection, run.run_id, queue)
        words = f"The run waits for a worker of queue {queue!r}."
        data = EngineEventData({"queue": queue, "attempt": claim.attempt})
        self._instance.report_engine_event(words, run, data, cls=self.__class__)
        self._send(claim)

    def _send(self, claim: RunClaim) -> None:
        try:
            self.celery.send_task(TASK, args=(claim.run_id, claim.attempt), queue=claim.queue, ignore_result=True)
        except _AWAY as error:
            _log.warning("run %s is sent when the broker is back: %s", claim.run_id, redactor.text(str(error)))

    def _look_after_queue(self, queue: str, waiting: list[RunClaim]) -> None:
        now = self._clock.now()
        overdue = [claim for claim in waiting if abs(now - claim.sent_at) > self.settings.resend_after * _SECOND]
        settled = sum(abs(now - claim.sent_at) > _IN_SECONDS * _SECOND for claim in waiting)
        if not overdue or self._depth(queue) >= settled:
            return  # they wait for a free worker
        for claim in overdue:
            run = self._instance.get_run_by_id(claim.run_id)
            with self._database.transaction() as connection:
                if run is None or run.is_finished:
                    self._claims.end(connection, claim, _WAS_OVER)
                    continue
                again = self._claims.sent(connection, claim)
            if again:
                _log.info("run %s is sent again to queue %s: no worker has claimed it", claim.run_id, queue)
                self._send(claim)

    def _depth(self, queue: str) -> int:
        """How many messages the broker has; endless if it cannot be asked."""
        try:
            with self.celery.connection_for_write() as connection:
                return cast("Any", connection).default_channel.queue_declare(queue).message_count
        except _AWAY as error:
            _log.warning("the broker cannot be asked: %s", redactor.text(str(error)))
            return 2**31

    def _tell_unserved(self, claim: RunClaim) -> None:
        if claim.told_at is not None:
            return
        run = self._instance.get_run_by_id(claim.run_id)
        with self._database.transaction() as connection:
            if run is None or run.is_finished:
                self._claims.end(connection, claim, _WAS_OVER)
                return
            if not self._claims.told(connection, claim):
                return
        words = f"No worker serves queue {claim.queue!r}: start one with `agent-pipelines worker --queue {claim.queue}`."
        _log.warning("run %s: %s", claim.run_id, words)
        self._instance.report_engine_event(words, run, cls=self.__class__)

    def _is_lost(self, claim: RunClaim) -> bool:
        silent = self._silence.seconds(claim.run_id, (claim.attempt, claim.beat_at))
        return silent > self.settings.lease + self.settings.margin

    def _is_silent(self, worker: StoredWorker) -> bool:
        return self._silence.seconds(worker.id, worker.beat_at) * _SECOND > STALE

    def _words(self, claim: RunClaim) -> str:
        silent = self.settings.lease + self.settings.margin
        return f"Worker process {claim.pid} on {claim.host}, which had the run, has been silent for {silent:g} s."

    def _lose(self, claim: RunClaim) -> None:
        words = self._words(claim)
        with self._database.transaction() as connection:
            if not self._claims.end_if_silent(connection, claim, words):
                return
        _log.warning("run %s: %s", claim.run_id, words)
        run = self._instance.get_run_by_id(claim.run_id)
        if run is not None and run.status is DagsterRunStatus.STARTING:
            self._begin_again(run, claim.attempt, words)
        else:
            close_run(self._instance, claim.run_id, words)

    def _begin_again(self, run: DagsterRun, attempts: int, words: str) -> None:
        if attempts < _MOST_STARTS:
            self._instance.report_engine_event(f"{words} Nothing of the run had begun, so it is sent again.", run)
            self._issue(run)
        else:
            close_run(self._instance, run.run_id, words)
