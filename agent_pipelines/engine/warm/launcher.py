"""A run launcher that forks runs from a process which has loaded everything already."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster import DagsterInstance, DagsterRun
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, RunLauncher, WorkerStatus
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from agent_pipelines.engine.warm.child import finish
from agent_pipelines.engine.warm.ending import Ending, kill
from agent_pipelines.engine.warm.host import WarmHost
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.engine.warm.protocol import Cancel, Channel, Done, Message, Run
from agent_pipelines.engine.warm.record import RunRecord
from agent_pipelines.engine.warm.settings import CONFIG, WarmSettings

_ANSWER = 10.0  # seconds in which a warm process answers what needs no loading


class WarmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Each run is a fork of a warm process that has imported Dagster and the code location.

    For one machine: a run is executed where it is launched. Seen from another machine it counts as alive, and a cancel from
    there is noticed by the run within `run_monitoring.cancellation_thread_poll_interval_seconds`.
    """

    def __init__(self, settings: WarmSettings | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        self._settings = settings or WarmSettings()
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        return CONFIG

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(WarmSettings.of(config_value), inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        self._start(context.dagster_run, resume=False)

    @property
    def supports_resume_run(self) -> bool:
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        run = context.dagster_run
        record = self._record(run.run_id)
        if record is not None and not record.is_here:
            raise DagsterLaunchFailedError(f"run {run.run_id} was started on {record.host} and can be resumed there only")
        if record is not None:
            self._place.records.end(run.run_id, record.process, "The run is resumed in another process.")
            self._host.clear(run.run_id)
        self._start(run, resume=True)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        record = self._record(run_id)
        if record is None or not record.is_here:
            # The process sees by itself that its run is being cancelled.
            return True
        if not record.owner.is_alive() or not self._ask(record.socket, Cancel(run_id)):
            self._place.records.cancel(run_id)
            threading.Thread(target=self._end, args=(record,), name=f"end-{run_id[:8]}", daemon=True).start()
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is alive. What cannot be known counts as alive: a failure could not be undone."""
        record = self._record(run.run_id)
        if record is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the process of the run is not known on this machine")
        if not record.is_here:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"the process of the run is on {record.host}")
        if record.process.is_alive() and record.ended is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(record.pid))
        if record.ended is None and record.owner.is_alive():
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"process {record.pid} of the run has just ended")
        if not kill(record.process):
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"process {record.pid} of the run cannot be killed")
        words = record.ended or f"process {record.pid} of the run is gone"
        return CheckRunHealthResult(WorkerStatus.FAILED, words, run_worker_id=str(record.pid))

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        record = self._record(run.run_id)
        return None if record is None else f"process {record.pid} on {record.host}"

    @property
    def _host(self) -> WarmHost:
        return WarmHost(self._instance, self._settings)

    @property
    def _place(self) -> WarmPlace:
        return self._host.place

    def _record(self, run_id: str) -> RunRecord | None:
        return self._place.records.get(run_id)

    def _start(self, run: DagsterRun, *, resume: bool) -> None:
        channel = self._host.begin(run, Run(run.run_id, run.job_name, resume))
        if channel is not None:
            channel.close()

    def _ask(self, socket: str, message: Message) -> bool:
        try:
            channel = Channel.to(Path(socket), _ANSWER)
            try:
                channel.send(message)
                return isinstance(channel.receive(), Done)
            finally:
                channel.close()
        except OSError:
            return False

    def _end(self, record: RunRecord) -> None:
        Ending(
            record.process,
            grace_after_interrupt=self._settings.grace_after_interrupt,
            grace_after_terminate=self._settings.grace_after_terminate,
        ).wait()
        run = self._instance.get_run_by_id(record.run_id)
        if run is not None:
            finish(self._instance, run, "The process of the run was ended.")
        self._place.records.remove(record.run_id)
