from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.remote_representation.external import RemoteSchedule

from agent_pipelines.engine import exact_times
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines_tests.engine.project import write_project

PROJECT = """
import dagster as dg
from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.core.task import TaskSpec

@dg.op
def work(): ...

job = dg.GraphDefinition(name="app__job", node_defs=[work]).to_job(name="app__job")
spec = TaskSpec.model_validate({
    "name": "job", "application": "app", "intent": "Work", "agent": "writer", "prompt": "Work",
    "triggers": [
        {"kind": "cron", "cron": "*/20 0 6 * * *", "seconds": "first", "timezone": "Europe/Berlin"},
        {"kind": "interval", "every": "5s", "ends_at": "2027-01-01T00:00:10+00:00"},
    ],
})
foreign = dg.ScheduleDefinition(name="foreign", cron_schedule="0 6 * * *", job=job)
defs = dg.Definitions(jobs=[job], schedules=[*schedules_for(spec, "app__job"), foreign])
"""


@pytest.fixture
def schedules(tmp_path: Path) -> Iterator[dict[str, RemoteSchedule]]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        with Workspace(instance, write_project(tmp_path / "project", PROJECT)) as workspace:
            (location,) = workspace.locations()
            (repository,) = location.get_repositories().values()
            yield {schedule.name: schedule for schedule in repository.get_schedules()}


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteSchedule, "execution_time_iterator", RemoteSchedule.execution_time_iterator)
    exact_times.show_exact_times()


def told(schedule: RemoteSchedule, start: str, number: int, *, ascending: bool = True) -> list[str]:
    times = schedule.execution_time_iterator(datetime.fromisoformat(start).timestamp(), ascending=ascending)
    return [moment.isoformat() for moment in islice(times, number)]


def test_the_next_ticks_have_their_seconds_and_their_zone(schedules: dict[str, RemoteSchedule]) -> None:
    schedule = schedules["app__job__cron"]
    assert schedule.cron_schedule == "* * * * *", "what Dagster itself would read"
    assert told(schedule, "2027-01-01T05:00:00+00:00", 4) == [
        "2027-01-01T06:00:00+01:00",
        "2027-01-01T06:00:20+01:00",
        "2027-01-01T06:00:40+01:00",
        "2027-01-02T06:00:00+01:00",
    ]


def test_the_last_ticks(schedules: dict[str, RemoteSchedule]) -> None:
    found = told(schedules["app__job__cron"], "2027-01-01T12:00:00+00:00", 4, ascending=False)
    assert [moment[8:19] for moment in found] == ["01T06:00:40", "01T06:00:20", "01T06:00:00", "31T06:00:40"]


def test_a_schedule_that_has_ended_is_never_due(schedules: dict[str, RemoteSchedule]) -> None:
    found = told(schedules["app__job__interval"], "2027-01-01T00:00:05+00:00", 4)
    assert found[:2] == ["2027-01-01T00:00:05+00:00", "2027-01-01T00:00:10+00:00"]
    assert all(moment.startswith("9000-") for moment in found[2:])


def test_other_schedules_stay_as_dagster_reads_them(schedules: dict[str, RemoteSchedule]) -> None:
    assert told(schedules["foreign"], "2027-01-01T00:00:00+00:00", 1) == ["2027-01-01T06:00:00+00:00"]
