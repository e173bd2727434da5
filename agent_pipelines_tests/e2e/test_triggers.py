"""Event, failure, repair and follower, through Dagster's real daemon, code server and run processes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines.components.deployment import hub_of
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.tick import REPAIR
from agent_pipelines.hub import Hub
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.engine.project import Daemon, daemon

ROOT = Path(__file__).parents[2]

_GATE = """
from pathlib import Path


def fails_once(invocation):
    asked = Path(__file__).with_name("asked")
    asked.touch()
    with asked.open("a") as file:
        file.write(invocation.task + "\\n")
    if len(asked.read_text().splitlines()) == 1:
        raise RuntimeError("the first time goes wrong")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    (path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(path))
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    project = Project(tmp_path / "project")
    project.agent()
    project.file("gates.py", _GATE)
    gate = project.module("gates")
    project.task("report", f"gate: {gate}:fails_once\ntriggers:\n- kind: event\n  event: day.closed\n")
    project.task("email", "triggers:\n- kind: after\n  task: report\n  offset: 1s\n")
    file = project.root / "workspace.yaml"
    file.write_text(
        f"load_from:\n- python_module:\n    module_name: {project.package}.definitions\n"
        f"    working_directory: {project.root}\n    location_name: project\n"
    )
    yield file
    project.close()


def wait_until(done: Callable[[], bool], running: Daemon, home: Path) -> None:
    while not done():
        assert running.poll() is None, (home / "daemon.log").read_text()
        time.sleep(0.2)


@pytest.mark.timeout(300)
def test_a_failed_report_is_repaired_and_then_the_mail_runs(home: Path, workspace: Path) -> None:
    """Row 68 with real processes; the report and the mail are declared in files of their own."""
    with dg.DagsterInstance.get() as instance, daemon(home, workspace) as running:
        hub = hub_of(instance)

        def statuses(task: str) -> list[Status]:
            with hub.database.reading() as connection:
                return [each.status for each in hub.executions.list(connection, task=task)]

        wait_until(lambda: _is_watched(instance, "default__report__triggers"), running, home)
        with hub.database.transaction() as connection:
            hub.inbox.put(connection, "day.closed", {"day": "2026-01-02"})
        wait_until(lambda: statuses("email") == [Status.SUCCEEDED], running, home)
        assert statuses("report") == [Status.SUCCEEDED]
        runs = DagsterGateway(instance).runs()
        assert [run.job for run in runs] == ["default__email", "default__report", "default__report"]
        wait_until(
            lambda: [run.status for run in DagsterGateway(instance).runs()] == ["SUCCESS", "SUCCESS", "FAILURE"], running, home
        )
        assert _verdicts(hub, "report") == {"event": Verdict.RAN, REPAIR: Verdict.RAN}
        assert _verdicts(hub, "email") == {"after": Verdict.RAN}


def _is_watched(instance: dg.DagsterInstance, sensor: str) -> bool:
    """Whether the daemon has evaluated a sensor to the end, so that it has a cursor."""
    for state in instance.all_instigator_state():
        if state.instigator_name == sensor:
            return getattr(state.instigator_data, "cursor", None) is not None
    return False


def _verdicts(hub: Hub, task: str) -> dict[str, Verdict | None]:
    with hub.database.reading() as connection:
        return {tick.trigger: tick.verdict for tick in hub.ticks.list(connection, task=task)}
