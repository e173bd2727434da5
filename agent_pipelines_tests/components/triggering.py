"""Evaluating schedules and sensors as Dagster's daemon does, on a clock that is moved by hand."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, ScheduleInstigatorData

from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.components.sensors import sensors_for
from agent_pipelines.components.watch.board import TriggerWatch
from agent_pipelines.core.clock import ManualClock, from_microseconds, to_microseconds
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.execution import ExecutionResult, RunRef, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import trigger_name
from agent_pipelines.engine.handover import ASKED_OF_DAGSTER
from agent_pipelines.engine.launch import Launch, launch_of
from agent_pipelines.engine.tick import Lane, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.tables import triggers as trigger_table


def instant(text: str) -> int:
    return to_microseconds(datetime.fromisoformat(text))


def spec(name: str = "report", **changes: Any) -> TaskSpec:
    values = {"name": name, "application": "app", "intent": "Report", "agent": "writer", "prompt": "Write", **changes}
    return TaskSpec.model_validate(values)


class Scripted(Runtime[RuntimeConfig]):
    """Succeeds or fails as its script says, and counts its calls."""

    kind = "scripted"
    config_type = RuntimeConfig
    capabilities = Capabilities()

    def __init__(self, *works: bool) -> None:
        super().__init__(RuntimeConfig())
        self.works = list(works)
        self.calls = 0

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        self.calls += 1
        if not (self.works.pop(0) if self.works else True):
            raise RuntimeFailure(ErrorClass.INVALID_REQUEST, "the script says no")
        yield Final(text="done")


@dataclass
class Deployment:
    """One database, one Dagster instance, one clock."""

    hub: Hub
    instance: dg.DagsterInstance
    clock: ManualClock
    watch: "type[SensorLoop] | type[BoardLoop]" = field(default_factory=lambda: SensorLoop)

    def ticks(self, task: str = "report", trigger: str | None = None) -> list[Tick]:
        """The ticks of a task, oldest first."""
        with self.hub.database.reading() as connection:
            found = self.hub.ticks.list(connection, application="app", task=task, trigger=trigger, limit=10_000)
            return list(found)[::-1]

    def run(
        self,
        task: TaskSpec,
        launch: Launch,
        runtime: Scripted | None = None,
        *,
        run_id: str | None = None,
        job: str | None = None,
    ) -> ExecutionResult:
        """Do what the Dagster run of a launch does."""
        agent = Agent("writer", [Node("one", runtime or Scripted())])
        invocation = Invocation(
            application=task.application,
            task=task.name,
            spec_hash=task.spec_hash,
            trigger=launch.trigger,
            origin=launch.origin,
            occurrence=launch.occurrence,
            due_at=launch.due_at,
            logical_at=launch.logical_at,
            variables=launch.variables,
        )
        run = RunRef(run_id=run_id or new_id(), job=job, resumes=launch.resume)
        return self.hub.runner.execute(invocation, task, agent, run=run)

    def decide(self, launch: Launch, verdict: Verdict, reason: str) -> None:
        """Give the tick of a launch a verdict without a run."""
        application, _, task = launch.task.partition("/")
        with self.hub.database.transaction() as connection:
            key = ("default", application, task)
            self.hub.ticks.decide(connection, key, launch.trigger, launch.occurrence, verdict, reason=reason)

    def put(self, type: str, payload: Mapping[str, Any], **more: Any) -> str:
        with self.hub.database.transaction() as connection:
            return self.hub.inbox.put(connection, type, payload, **more)[0]

    def look(self, task: TaskSpec, at: str | int, *, late: float = 0.01, trigger: int = 0) -> "list[Launch] | str":
        """Dagster looks at a schedule: what is launched, or why nothing is."""
        at = instant(at) if isinstance(at, str) else at
        self.clock.time = at + round(late * 1_000_000)
        schedule = schedules_for(task, f"app__{task.name}", hub_of=lambda _: self.hub)[trigger]
        context = dg.build_schedule_context(self.instance, from_microseconds(at))
        found = schedule.evaluate_tick(context)
        if found.skip_message is not None:
            return found.skip_message
        return [_launch(request) for request in found.run_requests or ()]

    def launch(self, task: TaskSpec, at: str | int, *, late: float = 0.01) -> Launch:
        """The one launch that a look leads to."""
        found = self.look(task, at, late=late)
        assert not isinstance(found, str), found
        (launch,) = found
        return launch

    def skip(self, task: TaskSpec, at: str | int, *, late: float = 0.01) -> str:
        """Why a look launches nothing."""
        found = self.look(task, at, late=late)
        assert isinstance(found, str), found
        return found

    def switch_on(self, schedule: str, at: str, lines: str | list[str]) -> None:
        """What Dagster notes when a schedule is switched on."""
        origin = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1, location_name="x"), "__repository__")
        data = ScheduleInstigatorData(lines, instant(at) / 1_000_000)
        state = InstigatorState(origin.get_instigator_origin(schedule), InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
        stored = self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        (self.instance.update_instigator_state if stored else self.instance.add_instigator_state)(state)


@dataclass
class SensorLoop:
    """Dagster's loop over the sensor of one task. Each evaluation makes the sensor anew: nothing is kept in memory."""

    deployment: Deployment
    task: TaskSpec
    cursor: str | None = None
    switched_on: float | None = None
    why: str | None = None
    jobs: list[str | None] = field(default_factory=list)

    def evaluate(self, *, after: float = 5, lost: bool = False) -> list[Launch]:
        """Let `after` seconds pass and evaluate; what is launched.

        `lost`: the daemon dies before it has stored anything of the answer.
        """
        deployment = self.deployment
        deployment.clock.time += round(after * 1_000_000)
        (sensor,) = sensors_for(self.task, f"app__{self.task.name}", hub_of=lambda _: deployment.hub)
        found: SensorExecutionData
        with dg.build_sensor_context(
            deployment.instance, cursor=self.cursor, last_sensor_start_time=self.switched_on, sensor_name=sensor.name
        ) as context:
            found = sensor.evaluate_tick(context)
        requests = found.run_requests or []
        self.why = found.skip_message
        self.jobs = [request.job_name for request in requests]
        if not lost:
            self.cursor = found.cursor
        return [_launch(request) for request in requests]


@dataclass
class BoardLoop:
    """Our daemon's loop over the triggers of one task: it looks, and launches what it has claimed.

    One that restarts begins each look in a new process.
    """

    deployment: Deployment
    task: TaskSpec
    source: Literal["declared", "registered"] = "declared"
    lane: Lane = "run"
    restarts: bool = False
    jobs: list[str] = field(default_factory=list)
    board: TriggerWatch | None = None

    def __post_init__(self) -> None:
        self.put()

    def put(self, state: Literal["on", "off", "paused"] = "on", **more: Any) -> None:
        """Say what the task's triggers are."""
        hub = self.deployment.hub
        values = {"source": self.source, "lane": self.lane, "spec_hash": self.task.spec_hash, "actor": "kim", **more}
        with hub.database.transaction() as connection:
            for trigger in self.task.triggers:
                hub.triggers.put(connection, self.task.key, trigger, state=state, **values)

    def look(self) -> int:
        """One look, nothing launched; how many ticks were claimed."""
        if self.board is None or self.restarts:
            self.board = TriggerWatch(self.deployment.hub, self.deployment.instance)
        return self.board.look()

    def evaluate(self, *, after: float = 5, lost: bool = False) -> list[Launch]:
        """Let `after` seconds pass, look and launch. `lost`: the daemon dies before it launches."""
        hub = self.deployment.hub
        self.deployment.clock.time += round(after * 1_000_000)
        self.look()
        with hub.database.transaction() as connection:
            ours = [tick for tick in hub.ticks.open(connection) if tick.run_id is None and not _asked_of_dagster(tick)]
            if lost:
                self.board = None
            else:
                assert all(hub.ticks.reserve(connection, tick.id, new_id()) for tick in ours)
        found = [launch_of(tick) for tick in ours]
        self.jobs = [job for job, _, _ in found]
        return [launch for _, launch, _ in found]

    @property
    def why(self) -> str:
        """What the sensor of the task says meanwhile of what waits."""
        hub, sensor = self.deployment.hub, SensorLoop(self.deployment, self.task)
        with hub.database.transaction() as connection:
            hub.daemons.beat(connection, "daemon", "leader")
        assert sensor.evaluate(after=0) == []
        with hub.database.transaction() as connection:
            hub.daemons.stop(connection, "daemon")
        assert sensor.why is not None
        what, _, notes = sensor.why.partition("; ")
        names = ", ".join(map(trigger_name, self.task.triggers))
        assert what == f"watched each second by the agent-pipelines daemon: {names}"
        return "; ".join(note for note in notes.split("; ") if "wait for their runs" not in note)

    @property
    def cursor(self) -> str | None:
        """The positions of the task's first trigger, as JSON. None makes it one that is new."""
        with self.deployment.hub.database.reading() as connection:
            (row, *_) = self.deployment.hub.triggers.list(connection, task=self.task.key)
            return json.dumps(row.marks)

    @cursor.setter
    def cursor(self, value: str | None) -> None:
        self.board = None
        if value is None:
            self.put("off")
            self.put()
        else:
            with self.deployment.hub.database.transaction() as connection:
                connection.execute(sa.update(trigger_table).values(marks=json.loads(value)))


def _asked_of_dagster(tick: Tick) -> bool:
    return ASKED_OF_DAGSTER.items() <= tick.inputs.items()


def _launch(request: dg.RunRequest) -> Launch:
    launch = Launch.from_tags(request.tags)
    assert launch is not None
    expected = f"{launch.trigger}:{launch.occurrence}"
    assert request.run_key == expected or (launch.resume and str(request.run_key).startswith("repair:"))
    return launch
