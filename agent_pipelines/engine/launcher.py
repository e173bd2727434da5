"""Dagster's default run launcher, with an eye on the processes that it starts."""

from typing import Protocol, runtime_checkable

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

_EARLIER = 5.0  # seconds by which a process may be older than Dagster's note that it started


@runtime_checkable
class LooksAfterRuns(Protocol):
    """A launcher that wants to be called each second, to see what became of the runs that it has launched."""

    def look_after(self) -> None: ...


class WatchedRunLauncher(DefaultRunLauncher):
    """Starts runs as Dagster does, as children of the code server, and tells run monitoring when such a process is gone.

    Dagster's own launcher cannot tell: when its code server dies together with the runs, these stay `STARTED` until the
    longest runtime is over. For one machine only, where a process id means the same to everybody.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is alive. What cannot be known counts as alive: a failure could not be undone."""
        started = self._instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ENGINE_EVENT, limit=20).records
        for record in started:
            event = record.event_log_entry.dagster_event
            pid = None if event is None else event.engine_event_data.metadata.get("pid")
            if pid is not None:
                number, since = int(str(pid.value)), record.event_log_entry.timestamp
                if _is_alive(number, since):
                    return CheckRunHealthResult(WorkerStatus.RUNNING)
                return CheckRunHealthResult(
                    WorkerStatus.FAILED, f"process {number} of the run is gone", run_worker_id=str(number)
                )
        return CheckRunHealthResult(WorkerStatus.RUNNING, "the process of the run is not known")


def _is_alive(pid: int, since: float) -> bool:
    try:
        process = psutil.Process(pid)
        # An id is given again: a process that began after the run did is another one.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() - _EARLIER <= since
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
