"""This machine, as a place where runs are executed."""

import time
from collections.abc import Callable
from pathlib import Path

from dagster import DagsterInstance, DagsterRun
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.origin import JobPythonOrigin
from dagster._serdes import deserialize_value
from dagster_shared.error import SerializableErrorInfo

from agent_pipelines.engine.warm.ending import kill
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines.engine.warm.protocol import Channel, Failed, Message, Run, Stale, Started
from agent_pipelines.engine.warm.settings import WarmSettings
from agent_pipelines.engine.warm.starter import Starter, StartError
from agent_pipelines.engine.warm.storage import keep_metadata


class WarmHost:
    """Has runs executed here, each by the warm process of its code location, which is started if there is none."""

    def __init__(self, instance: DagsterInstance, settings: WarmSettings) -> None:
        self._instance = instance
        self._settings = settings
        self.place = WarmPlace(Path(instance.root_directory).absolute())

    def begin(self, run: DagsterRun, order: Run, tie: Callable[[Channel], None] | None = None) -> Channel | None:
        """Begin a run; returns the connection to the warm process, which stays open for a run with a lease.

        `tie` is given the connection as soon as the warm process has the order, which may have to load the code first.
        None if the warm process has died meanwhile and the run goes on. Raises DagsterLaunchFailedError.
        """
        origin = run.job_code_origin
        if not isinstance(origin, JobPythonOrigin):
            raise DagsterLaunchFailedError(f"run {run.run_id} does not say where its code is")
        keep_metadata(self._instance)
        starter = Starter(self.place, self._settings, self._instance, origin.repository_origin)
        try:
            answer, channel = self._request(starter, order, tie)
        except StartError as error:
            raise DagsterLaunchFailedError(str(error)) from error
        except TimeoutError:
            raise DagsterLaunchFailedError(
                f"run_launcher: nothing could be started within start_timeout ({self._settings.start_timeout:g} s): either the "
                f"code loads for longer, or max_children runs are being executed; the end of the log:\n{starter.log_tail()}"
            ) from None
        if isinstance(answer, Failed):
            error = None if answer.error is None else deserialize_value(answer.error, SerializableErrorInfo)
            raise DagsterLaunchFailedError(f"run {run.run_id}: {answer.words}", serializable_error_info=error)
        return channel

    def clear(self, run_id: str) -> None:
        """End what is left here of an earlier attempt of a run. Raises DagsterLaunchFailedError if it cannot be killed."""
        record = self.place.records.get(run_id)
        if record is None:
            return
        if record.is_here and not kill(record.process):
            raise DagsterLaunchFailedError(f"run {run_id}: process {record.pid} cannot be killed, so it is not resumed")
        self.place.records.remove(run_id)

    def _request(self, starter: Starter, order: Run, tie: Callable[[Channel], None] | None) -> tuple[Message, Channel | None]:
        deadline = time.monotonic() + self._settings.start_timeout
        retired = None
        deaths = 0
        while True:
            process = starter.listening(deadline, other_than=retired)
            channel, answer = None, None
            try:
                channel = Channel.to(Path(process.socket), max(0.01, deadline - time.monotonic()))
                channel.send(order)
                if tie is not None:
                    tie(channel)
                answer = channel.receive()
            except TimeoutError:
                raise
            except OSError:
                pass
            finally:
                if channel is not None and not isinstance(answer, Started):
                    channel.close()
            match answer:
                case Started() | Failed():
                    return answer, channel
                case Stale():
                    retired = process.process
                case _:
                    record = self.place.records.get(order.run_id)
                    if record is not None and record.is_here and order.lease is not None:
                        raise StartError(f"the warm process died with the run; the end of its log:\n{starter.log_tail()}")
                    if record is not None and record.is_here and record.process.is_alive():
                        return Started(record.pid), None  # it died after it had started the run
                    deaths += 1
                    retired = process.process
                    if deaths > 1:
                        raise StartError(f"the warm process died; the end of its log:\n{starter.log_tail()}")
