"""The few things that other rooms need of Dagster: launch a run, read runs, switch schedules and sensors."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterRunAlreadyExists, DagsterUserCodeUnreachableError
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.remote_representation.external import RemoteJob, RemoteRepository
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.snap import ExecutionPlanSnapshot
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.workspace.context import BaseWorkspaceRequestContext
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Microseconds, from_microseconds, to_microseconds
from agent_pipelines.core.declared import DECLARED, Declared
from agent_pipelines.core.errors import DefinitionError, StorageError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.launch import Launch, tag
from agent_pipelines.engine.tick import AGAIN, Tick

QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
"""Dagster's name of the daemon that takes runs out of the queue."""

# By the code location, which is another object whenever its code was loaded again.
_plans: "WeakKeyDictionary[CodeLocation, dict[str, tuple[RemoteJob, ExecutionPlanSnapshot]]]" = WeakKeyDictionary()

_OVER = frozenset({DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED})


class StoredRun(BaseModel):
    """A Dagster run as its storage has it. Instants are UTC microseconds, `status` is Dagster's word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    job: str
    status: str
    created_at: Microseconds
    started_at: Microseconds | None
    finished_at: Microseconds | None
    parent_run_id: str | None
    tags: dict[str, str]

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it."""
        return DagsterRunStatus(self.status) in _OVER


class DagsterGateway:
    """Dagster, as far as other rooms may know it.

    `locations` gives the code locations (`Workspace.locations`, or those of a webserver's request); only launching and
    switching need them. `context` is the request context of a webserver, where there is one.
    """

    def __init__(
        self,
        instance: DagsterInstance,
        locations: Callable[[], Sequence[CodeLocation]] | None = None,
        *,
        context: BaseWorkspaceRequestContext | None = None,
    ) -> None:
        self._instance = instance
        self._context = context
        self._locations = locations or (lambda: context.code_locations if context else ())

    def launch(self, job_name: str, launch: Launch, *, run_id: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Put a run of a job into Dagster's queue, for the daemon to start; returns its id.

        With a reserved `run_id` it can be repeated: a run that exists already is the one that was asked for.
        Raises DefinitionError if there is no such job, StorageError if runs of this instance are not queued or if a code server
        that may have the job does not answer just now.
        """
        run_id = run_id or new_id()
        stored = self._stored_or_new(job_name, run_id, {**(tags or {}), **launch.tags()})
        if stored is not None and stored.status is DagsterRunStatus.NOT_STARTED:
            # The queue stores a state and nothing else; what it is given besides matters to other coordinators only.
            self._instance.submit_run(run_id, self._context)  # pyright: ignore[reportArgumentType]
        return run_id

    def start(self, job_name: str, run_id: str, tags: Mapping[str, str]) -> None:
        """Start a run of a job at once, past the queue and its limits. It can be repeated, as `launch` can.

        Raises DefinitionError if there is no such job, StorageError if the run launcher fails.
        """
        stored = self._stored_or_new(job_name, run_id, tags)
        if stored is None or stored.status is not DagsterRunStatus.NOT_STARTED:
            return
        if self._context is None:
            raise StorageError("starting a run at once needs the workspace of a daemon or a webserver")
        try:
            self._instance.launch_run(run_id, self._context)
        except Exception as error:  # a launcher may raise anything
            raise StorageError(f"run {run_id} of {job_name} could not be started: {redactor.text(str(error))}") from error

    def cancel(self, run_id: str) -> bool:
        """Ask for the end of a run; False if it is over already or nobody can end it."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.status in _OVER:
            return False
        if run.status in (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED):
            self._instance.report_run_canceled(run)
            return True
        return self._instance.run_launcher.terminate(run_id)

    def withdraw(self, run_id: str) -> bool:
        """Cancel a run that exists and that nobody has asked Dagster to run; False if there is none, or if somebody has."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.status is not DagsterRunStatus.NOT_STARTED:
            return False
        self._instance.report_run_canceled(run)
        return True

    def run_status(self, run_id: str) -> str | None:
        """Dagster's word for the state of a run; None if it has none of that id."""
        run = self._instance.get_run_by_id(run_id)
        return None if run is None else run.status.value

    def exists(self, run_id: str) -> bool:
        """Whether Dagster knows a run and has been asked to run it."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and run.status is not DagsterRunStatus.NOT_STARTED

    def is_over(self, run_id: str) -> bool:
        """Whether a run has ended or is gone."""
        run = self._instance.get_run_by_id(run_id)
        return run is None or run.status in _OVER

    def run(self, run_id: str) -> StoredRun | None:
        """A run by its id."""
        record = self._instance.get_run_record_by_id(run_id)
        return None if record is None else _stored(record)

    def runs(
        self,
        *,
        job_name: str | None = None,
        statuses: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        created_from: Microseconds | None = None,
        created_to: Microseconds | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[StoredRun]:
        """Runs, newest first, a page at a time: `before` is the id of the last one of the page before."""
        filters = RunsFilter(
            job_name=job_name,
            statuses=[DagsterRunStatus(status) for status in statuses],
            tags=tags,
            created_after=None if created_from is None else from_microseconds(created_from - 1),
            created_before=None if created_to is None else from_microseconds(created_to),
        )
        return [_stored(record) for record in self._instance.get_run_records(filters, limit=limit, cursor=before)]

    def runs_of_tick(self, tick: Tick) -> Sequence[StoredRun]:
        """The runs that were launched for a tick, re-executions among them, newest first."""
        values = {"task": f"{tick.application}/{tick.task}", "trigger": tick.trigger, "occurrence": tick.occurrence}
        if tick.trigger in AGAIN:
            values = {tick.trigger: tick.occurrence}
        found = list(self.runs(tags={tag(name): value for name, value in values.items()}))
        if tick.run_id is not None and all(run.run_id != tick.run_id for run in found):
            reserved = self.run(tick.run_id)
            return found if reserved is None else [*found, reserved]
        return found

    def forget_runs(self, *, created_before: Microseconds, limit: int) -> int:
        """Remove runs that are over, with their events; returns how many. Materializations stay with the assets."""
        old = self.runs(created_to=created_before, statuses=[status.value for status in _OVER], limit=limit)
        for run in old:
            self._instance.delete_run(run.run_id)
        return len(old)

    def wait(self, run_id: str, *, poll: float = 0.2, sleep: Callable[[float], None] = time.sleep) -> str | None:
        """Wait until a run is over; returns its state, None if it is gone. `poll` is in seconds."""
        while not self.is_over(run_id):
            sleep(poll)
        return self.run_status(run_id)

    def queue_is_served(self) -> bool:
        """Whether a daemon takes runs out of the queue, by its heartbeat."""
        status = self._instance.get_daemon_statuses([QUEUE_DAEMON]).get(QUEUE_DAEMON)
        return status is not None and status.healthy is True

    def set_schedule(self, name: str, on: bool) -> None:
        """Switch a schedule or a sensor on or off. Raises DefinitionError if there is none of that name."""
        known: list[str] = []
        for repository in self._repositories():
            known += [each.name for each in (*repository.get_schedules(), *repository.get_sensors())]
            if repository.has_schedule(name):
                schedule = repository.get_schedule(name)
                if on:
                    self._instance.start_schedule(schedule)
                else:
                    self._instance.stop_schedule(schedule.get_remote_origin_id(), schedule.selector_id, schedule)
                return
            if repository.has_sensor(name):
                sensor = repository.get_sensor(name)
                if on:
                    self._instance.start_sensor(sensor)
                else:
                    self._instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)
                return
        raise DefinitionError(f"no schedule or sensor is named {name!r}", fix=_there_are(known))

    def schedules(self) -> Mapping[str, bool]:
        """The schedules and sensors of the workspace by name, and whether each is switched on."""
        states = {state.selector_id: state for state in self._instance.all_instigator_state()}
        return {
            each.name: each.get_current_instigator_state(states.get(each.selector_id)).is_running
            for repository in self._repositories()
            for each in (*repository.get_schedules(), *repository.get_sensors())
        }

    def declared(self) -> Declared:
        """What registered tasks may refer to, as the code locations tell it. Raises DefinitionError if none does."""
        told: list[Declared] = []
        for repository in self._repositories():
            for sensor in repository.get_sensors():
                metadata = sensor.metadata.standard_metadata if sensor.metadata is not None else None
                value = (metadata or {}).get(DECLARED)
                if value is not None:
                    told.append(_declared(str(value.value)))
        if not told:
            fix = "Load a project with agent_pipelines.definitions, and see in the web UI whether its definitions can be loaded"
            raise DefinitionError("no code location tells what it declares", fix=fix)
        return Declared.of_all(told)

    def _repositories(self) -> Sequence[RemoteRepository]:
        return [repository for location in self._locations() for repository in location.get_repositories().values()]

    def _stored_or_new(self, job_name: str, run_id: str, tags: Mapping[str, str]) -> DagsterRun | None:
        stored = self._instance.get_run_by_id(run_id)
        if stored is None:
            self._create(job_name, run_id, tags)
            stored = self._instance.get_run_by_id(run_id)
        return stored

    def _create(self, job_name: str, run_id: str, tags: Mapping[str, str]) -> None:
        if self._context is None and not isinstance(self._instance.run_coordinator, QueuedRunCoordinator):
            raise StorageError("dagster.yaml: runs are not queued, so nothing would start this one; remove `run_coordinator`")
        repository, job, plan = self._planned(job_name)
        try:
            self._instance.create_run(
                job_name=job_name,
                run_id=run_id,
                run_config={},
                status=DagsterRunStatus.NOT_STARTED,
                tags={**job.run_tags, **tags},
                root_run_id=None,
                parent_run_id=None,
                step_keys_to_execute=None,
                execution_plan_snapshot=plan,
                job_snapshot=job.job_snapshot,
                parent_job_snapshot=job.parent_job_snapshot,
                asset_selection=None,
                asset_check_selection=None,
                resolved_op_selection=job.resolved_op_selection,
                op_selection=job.op_selection,
                remote_job_origin=job.get_remote_origin(),
                job_code_origin=job.get_python_origin(),
                asset_graph=repository.asset_graph,
            )
        except DagsterRunAlreadyExists:
            return

    def _planned(self, job_name: str) -> tuple[RemoteRepository, RemoteJob, ExecutionPlanSnapshot]:
        """A job and its execution plan, which is asked for once as long as the code location stays the same."""
        location, repository = self._find(job_name)
        known = _plans.setdefault(location, {})
        if job_name not in known:
            job = repository.get_full_job(job_name)
            plan = location.get_execution_plan(job, {}, step_keys_to_execute=None, known_state=None, instance=self._instance)
            known[job_name] = (job, plan.execution_plan_snapshot)
        return repository, *known[job_name]

    def _not_loaded(self) -> Sequence[str]:
        """Which code locations cannot be loaded just now, and why."""
        words: list[str] = []
        for name, entry in ({} if self._context is None else self._context.get_code_location_entries()).items():
            if (error := entry.load_error) is not None:
                while error.cause is not None:
                    error = error.cause
                words.append(f"code location {name!r} cannot be loaded: {redactor.text(error.message).strip()}")
        return words

    def _waits_for_code_server(self) -> bool:
        """Whether a code server does not answer: it may have the job, and will say so when it is back."""
        entries = {} if self._context is None else self._context.get_code_location_entries()
        errors = [entry.load_error for entry in entries.values() if entry.load_error is not None]
        return any(error.cls_name == DagsterUserCodeUnreachableError.__name__ for error in errors)

    def _find(self, job_name: str) -> tuple[CodeLocation, RemoteRepository]:
        found = [
            (location, repository)
            for location in self._locations()
            for repository in location.get_repositories().values()
            if repository.has_job(job_name)
        ]
        if len(found) > 1:
            names = ", ".join(location.name for location, _ in found)
            raise DefinitionError(f"several code locations have a job {job_name!r}: {names}", fix="Rename all but one")
        if not found:
            known = [job.name for repository in self._repositories() for job in repository.get_all_jobs()]
            words = "; ".join([f"no job is named {job_name!r}", *self._not_loaded()])
            if self._waits_for_code_server():
                raise StorageError(words)
            raise DefinitionError(words, fix=_there_are(known))
        return found[0]


@lru_cache(maxsize=16)
def _declared(text: str) -> Declared:
    return Declared.model_validate_json(text)


def _there_are(names: Sequence[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("__"))
    return f"There are: {', '.join(shown)}" if shown else "The workspace has none"


def _stored(record: RunRecord) -> StoredRun:
    run = record.dagster_run
    return StoredRun(
        run_id=run.run_id,
        job=run.job_name,
        status=run.status.value,
        created_at=to_microseconds(record.create_timestamp),
        started_at=None if record.start_time is None else round(record.start_time * 1_000_000),
        finished_at=None if record.end_time is None else round(record.end_time * 1_000_000),
        parent_run_id=run.parent_run_id,
        tags=dict(run.tags),
    )
