"""Dagster's scheduler with a second hand: keeps the time of all tasks of ours, and leaves other schedules to Dagster."""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagster._core.remote_representation.external import RemoteSchedule
from dagster._core.scheduler.scheduler import DagsterDaemonScheduler
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon.daemon import DaemonIterator, SchedulerDaemon
from dagster._scheduler.scheduler import ScheduleIterationTimes, launch_scheduled_runs
from dagster._time import get_current_datetime
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import StorageError
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.burst_keeper import BurstKeeper
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.declaration import DeclaredTriggers
from agent_pipelines.engine.declarations import Declarations
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.handover import adopt_requested
from agent_pipelines.engine.launcher import LooksAfterRuns
from agent_pipelines.engine.periodic import Periodic
from agent_pipelines.engine.run_lane import RunLane
from agent_pipelines.engine.tick_notes import TickNotes
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.timekeeper import Look, Timekeeper, UnfinishedExecutions
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.store.database import Database

_log = logging.getLogger("agent_pipelines.scheduler")

_LONGEST_WAIT = 0.5  # seconds: how soon something registered just now is seen
_SHORTEST_WAIT = 0.002
_ERROR_WAIT = 1.0


@dataclass(frozen=True)
class Keeping:
    """What the scheduler keeps the time with. `watch` looks at what is not of time, and returns how many ticks it claimed."""

    daemon_id: str
    database: Database
    clock: Clock
    triggers: Triggers
    ticks: Ticks
    bursts: Bursts
    daemons: Daemons
    executions: UnfinishedExecutions
    watch: Callable[[], int] | None = None


class SecondScheduler(SchedulerDaemon):
    """Takes the place of Dagster's scheduler daemon, under its name, so that its health shows where people look for it.

    Schedules that are not ours are evaluated by Dagster's own code, each minute.
    """

    def __init__(self, keeping: Keeping) -> None:
        super().__init__()
        self._keeping = keeping

    def core_loop(self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: threading.Event) -> DaemonIterator:
        """Keep the time until the daemon is shut down."""
        keeping, context = self._keeping, workspace_process_context
        instance, clock = context.instance, keeping.clock

        def gateway() -> DagsterGateway:
            return DagsterGateway(instance, context=context.create_request_context())

        timekeeper = Timekeeper(keeping.database, keeping.triggers, keeping.ticks, keeping.executions, clock)
        declarations = Declarations(instance, keeping.database, keeping.triggers)
        lane = RunLane(keeping.database, keeping.ticks, clock, gateway)
        launcher = instance.run_launcher
        bursts = BurstKeeper(keeping.database, keeping.triggers, keeping.ticks, keeping.bursts, clock, gateway)
        notes = TickNotes(instance, keeping.database, keeping.ticks, clock)
        foreign = _ForeignSchedules(context, self._logger)
        stop, wake = threading.Event(), threading.Event()
        # What was edited while nobody looked must be known before anything is claimed.
        declaring = Periodic("declarations", lambda: declarations.look(context.create_request_context()), 1.0, stop)
        declaring.once()
        adopt_requested(keeping.database, keeping.ticks, gateway())
        beside = [
            declaring,
            Periodic("forgotten", lane.look_after, 1.0, stop),
            Periodic("bursts", lambda: bursts.keep(declarations.lanes), 1.0, stop),
            Periodic("notes", notes.write, 1.0, stop),
            Periodic("schedules", foreign.look, 1.0, stop),
            *([Periodic("launched runs", launcher.look_after, 1.0, stop)] if isinstance(launcher, LooksAfterRuns) else []),
            *([] if keeping.watch is None else [Periodic("watch", _then(keeping.watch, wake), 1.0, stop)]),
        ]
        for each in beside:
            each.start()
        failure: str | None = None
        try:
            while not shutdown_event.is_set():
                wait = _LONGEST_WAIT
                try:
                    look = Look()
                    following = timekeeper.following()
                    if following.asks_for_look(clock.now()):
                        look = timekeeper.look()
                        notes.expect([*look.claimed, *look.decided[-100:]], declarations.known)
                        for run_id in look.replaced_runs:
                            lane.cancel(run_id)
                        following = timekeeper.following()
                    is_full = False
                    if following.begins_at is not None and following.begins_at <= clock.now():
                        is_full = lane.launch_due() == 0
                        following = timekeeper.following()
                    # What begins has to wait for a free place then, and asking again at once would not bring it.
                    wait = 0.0 if look.is_behind else _wait(following.due_at if is_full else following.at, clock.now())
                    failure = None
                    yield None
                except Exception as error:
                    if str(error) != failure and isinstance(error, StorageError):
                        _log.warning("the clock waits for the database: %s", redactor.text(str(error)))
                    elif str(error) != failure:
                        _log.exception("the clock caught an error, and goes on")
                    failure = str(error)
                    yield serializable_error_info_from_exc_info(sys.exc_info())
                    wait = _ERROR_WAIT
                # Dagster's pages show these as errors of the scheduler.
                for failed in [each.failure for each in beside if each.failure is not None]:
                    yield SerializableErrorInfo(redactor.text(str(failed)), [], type(failed).__name__)
                # What was just claimed for an event begins now; a shutdown is seen after the wait.
                if wake.wait(wait):
                    wake.clear()
            # Dagster takes a loop that has ended for a fault, and looks at the event only when it yields.
            yield None
        finally:
            stop.set()
            for each in beside:
                each.join(5.0)
            lane.close()


def _then(watch: Callable[[], int], wake: threading.Event) -> Callable[[], None]:
    def look() -> None:
        if watch():
            wake.set()

    return look


def _wait(following: Microseconds | None, now: Microseconds) -> float:
    if following is None:
        return _LONGEST_WAIT
    return min(_LONGEST_WAIT, max(_SHORTEST_WAIT, (following - now) / 1_000_000))


class _ForeignSchedules:
    """The schedules of a workspace that are not ours, evaluated as Dagster does it, once a minute."""

    def __init__(self, context: IWorkspaceProcessContext, logger: logging.Logger) -> None:
        self._context = context
        self._logger = logger
        self._times: dict[str, ScheduleIterationTimes] = {}
        self._minute = 0

    def look(self) -> None:
        now = get_current_datetime()
        minute = int(now.timestamp()) // 60
        if minute == self._minute:
            return
        self._minute = minute
        scheduler = self._context.instance.scheduler
        assert isinstance(scheduler, DagsterDaemonScheduler)
        self._leave_ours_out()
        for error in launch_scheduled_runs(
            self._context,
            self._logger,
            end_datetime_utc=now,
            iteration_times=self._times,
            max_catchup_runs=scheduler.max_catchup_runs,
            max_tick_retries=scheduler.max_tick_retries,
        ):
            if error is not None:
                self._logger.error("a schedule could not be evaluated: %s", error)

    def _leave_ours_out(self) -> None:
        # Dagster evaluates a schedule again when its next time has come: for ours it never does.
        for entry in self._context.create_request_context().get_code_location_entries().values():
            if entry.code_location is None:
                continue
            for repository in entry.code_location.get_repositories().values():
                for schedule in repository.get_schedules():
                    if DeclaredTriggers.are_in(_metadata(schedule)):
                        never = ScheduleIterationTimes(schedule.cron_schedule, float("inf"), 0.0)
                        self._times[schedule.selector_id] = never


def _metadata(schedule: RemoteSchedule) -> Mapping[str, object]:
    return schedule.metadata
