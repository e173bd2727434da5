from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError, StorageError
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.gateway import QUEUE_DAEMON, DagsterGateway
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines.store.database import Database
from agent_pipelines_tests.engine.project import DEFINITIONS, daemon, write_project

LAUNCH = Launch(
    task="app/report", trigger="on_demand", origin=Origin.ON_DEMAND, occurrence="o-1", due_at=5, logical_at=5, actor="kim"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    (path / "dagster.yaml").write_text("telemetry: {enabled: false}\nrun_queue: {dequeue_interval_seconds: 1}\n")
    return path


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def gateway(instance: DagsterInstance, tmp_path: Path) -> Iterator[DagsterGateway]:
    with Workspace(instance, write_project(tmp_path / "project")) as workspace:
        yield DagsterGateway(instance, workspace.locations)


def test_a_launch_is_queued_with_its_request(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_id = gateway.launch("app__report", LAUNCH, tags={"more": "yes"})
    run = gateway.run(run_id)
    assert run is not None
    assert (run.job, run.status, run.is_over) == ("app__report", "QUEUED", False)
    assert Launch.from_tags(run.tags) == LAUNCH
    assert run.tags["team"] == "data"
    assert run.tags["more"] == "yes"
    assert gateway.run_status(run_id) == "QUEUED"


def test_a_run_that_nobody_asked_dagster_to_run_is_withdrawn(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    queued = gateway.launch("app__report", LAUNCH)
    left = instance.create_run_for_job(dg.GraphDefinition("left").to_job()).run_id
    assert [gateway.withdraw(run_id) for run_id in (queued, left, left, new_id())] == [False, True, False, False]
    assert gateway.run_status(left) == "CANCELED"


def test_the_runs_of_a_tick_are_found(gateway: DagsterGateway, instance: DagsterInstance, database: Database) -> None:
    ticks = Ticks(ManualClock())
    run_id = gateway.launch("app__report", LAUNCH)
    reserved = gateway.launch("app__report", LAUNCH.model_copy(update={"occurrence": "other"}))
    repairing = gateway.launch("app__report", LAUNCH, tags={".dagster/agent_pipelines.repair": "e-1"})

    def found(trigger: str, occurrence: str, reserved_id: str | None = None) -> list[str]:
        with database.transaction() as connection:
            origin = Origin.ON_DEMAND
            task = ("default", "app", "report")
            tick, _ = ticks.claim(connection, task, trigger, occurrence, origin=origin, due_at=5, run_id=reserved_id)
        return [run.run_id for run in gateway.runs_of_tick(tick)]

    assert found("on_demand", "o-1", reserved) == [repairing, run_id, reserved]
    assert found("on_demand", "o-2") == []
    assert found("on_demand", "o-3", "gone") == []
    assert found("repair", "e-1") == [repairing]


def test_a_reserved_run_id_is_launched_once(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_id = new_id()
    assert [gateway.launch("app__report", LAUNCH, run_id=run_id) for _ in range(3)] == [run_id] * 3
    assert len(gateway.runs()) == 1
    assert len(instance.get_records_for_run(run_id, of_type=DagsterEventType.PIPELINE_ENQUEUED).records) == 1


def test_a_run_that_was_created_but_not_queued_is_queued(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_id = new_id()
    gateway._create("app__report", run_id, LAUNCH.tags())  # what a crash after this line leaves behind
    assert gateway.run_status(run_id) == "NOT_STARTED"
    gateway.launch("app__report", LAUNCH, run_id=run_id)
    assert gateway.run_status(run_id) == "QUEUED"


def test_a_job_that_may_be_on_a_code_server_that_is_away_is_no_mistake(instance: DagsterInstance, tmp_path: Path) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_text(f"load_from:\n- grpc_server:\n    socket: {tmp_path / 'nobody'}\n    location_name: away\n")
    with pytest.warns(UserWarning, match="away"):
        process = WorkspaceProcessContext(instance, WorkspaceFileTarget([str(file)]))
    with process, pytest.raises(StorageError, match="no job is named 'app__report'; code location 'away' cannot be loaded"):
        DagsterGateway(instance, context=process.create_request_context()).launch("app__report", LAUNCH)


def test_a_missing_job_names_those_that_exist(gateway: DagsterGateway) -> None:
    with pytest.raises(DefinitionError, match=r"no job is named 'app__nothing'\. There are: app__report"):
        gateway.launch("app__nothing", LAUNCH)


def test_a_run_is_over_when_it_ended_or_is_gone(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_id = gateway.launch("app__report", LAUNCH)
    assert not gateway.is_over(run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_failed(run)
    assert gateway.is_over(run_id)
    assert gateway.run_status(run_id) == "FAILURE"
    instance.delete_run(run_id)
    assert gateway.is_over(run_id)
    assert gateway.run_status(run_id) is None
    assert gateway.wait(run_id) is None


def test_runs_are_listed_by_page_and_filter(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_ids = [gateway.launch("app__report", LAUNCH.model_copy(update={"occurrence": str(n)})) for n in range(5)]
    newest = gateway.runs(limit=2)
    assert [run.run_id for run in newest] == run_ids[:2:-1]
    assert [run.run_id for run in gateway.runs(limit=9, before=newest[-1].run_id)] == run_ids[2::-1]
    assert gateway.runs(statuses=["FAILURE"]) == []
    created = [run.created_at for run in reversed(gateway.runs())]
    assert [run.run_id for run in gateway.runs(created_from=created[1], created_to=created[3])] == run_ids[2:0:-1]


def test_wait_sleeps_until_the_end(gateway: DagsterGateway, instance: DagsterInstance) -> None:
    run_id = gateway.launch("app__report", LAUNCH)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_canceled(run)

    assert gateway.wait(run_id, poll=7, sleep=sleep) == "CANCELED"
    assert slept == [7, 7, 7]


def test_schedules_and_sensors_are_switched(gateway: DagsterGateway) -> None:
    assert gateway.schedules() == {"app__report__cron": False, "app__report__triggers": False}
    for name in ("app__report__cron", "app__report__triggers"):
        gateway.set_schedule(name, True)
        gateway.set_schedule(name, True)
        assert gateway.schedules()[name]
    gateway.set_schedule("app__report__cron", False)
    assert gateway.schedules() == {"app__report__cron": False, "app__report__triggers": True}
    with pytest.raises(DefinitionError, match=r"named 'x'\. There are: app__report__cron, app__report__triggers"):
        gateway.set_schedule("x", True)


def test_without_a_queue_nothing_is_launched(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}"
    )
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        with Workspace(instance, write_project(tmp_path / "project")) as workspace:
            with pytest.raises(StorageError, match="runs are not queued"):
                DagsterGateway(instance, workspace.locations).launch("app__report", LAUNCH)


def test_a_location_that_does_not_load_says_why(instance: DagsterInstance, tmp_path: Path) -> None:
    broken = write_project(tmp_path / "project", DEFINITIONS + "\nraise KeyError('the reason')\n")
    with (
        Workspace(instance, broken) as workspace,
        pytest.raises(DefinitionError, match=r"'project' cannot be loaded: KeyError: 'the reason'"),
    ):
        DagsterGateway(instance, workspace.locations).launch("app__report", LAUNCH)


def test_a_directory_without_a_project_says_so(instance: DagsterInstance, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="Run this in the directory of a project"):
        Workspace.of_directory(instance, tmp_path)
    assert Workspace.of_directory(instance, write_project(tmp_path / "project").parent)


def test_a_project_of_dg_is_found_from_anywhere(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"project_{new_id().replace('-', '_')}"
    project = tmp_path / "dg"
    (project / package).mkdir(parents=True)
    (project / package / "__init__.py").touch()
    (project / package / "definitions.py").write_text(DEFINITIONS)
    (project / "pyproject.toml").write_text(f'[tool.dg.project]\nroot_module = "{package}"\n')
    monkeypatch.chdir(tmp_path)
    with Workspace.of_directory(instance, project) as workspace:
        (location,) = workspace.locations()
        run_id = DagsterGateway(instance, workspace.locations).launch("app__report", LAUNCH)
    assert location.name == f"{package}.definitions"
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.remote_job_origin is not None
    assert run.remote_job_origin.location_name == location.name


def test_a_webserver_sees_the_same(gateway: DagsterGateway, instance: DagsterInstance, tmp_path: Path) -> None:
    """What the gateway launched and switched, through the request context of a webserver with its own server process."""
    gateway.set_schedule("app__report__cron", True)
    run_id = gateway.launch("app__report", LAUNCH)
    target = WorkspaceFileTarget([str(tmp_path / "project" / "workspace.yaml")])
    with WorkspaceProcessContext(instance, target) as process:
        context = process.create_request_context()
        beside = DagsterGateway(instance, context=context)
        assert beside.schedules() == gateway.schedules()
        beside.set_schedule("app__report__cron", False)
        other = beside.launch("app__report", LAUNCH)
    assert not gateway.schedules()["app__report__cron"]
    ours, theirs = (instance.get_run_by_id(each) for each in (run_id, other))
    assert ours is not None
    assert theirs is not None
    assert ours.remote_job_origin == theirs.remote_job_origin
    assert ours.job_snapshot_id == theirs.job_snapshot_id


def test_the_daemon_starts_what_was_launched_beside_it(gateway: DagsterGateway, home: Path, tmp_path: Path) -> None:
    """The real daemon in its own process, which knows the project by its own server process only."""
    assert QueuedRunCoordinatorDaemon.daemon_type() == QUEUE_DAEMON
    assert not gateway.queue_is_served()
    run_id = gateway.launch("app__report", LAUNCH)
    with daemon(home, tmp_path / "project" / "workspace.yaml"):
        assert gateway.wait(run_id) == DagsterRunStatus.SUCCESS.value, (home / "daemon.log").read_text()
        assert gateway.queue_is_served()
    run = gateway.run(run_id)
    assert run is not None
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.created_at < run.started_at < run.finished_at
