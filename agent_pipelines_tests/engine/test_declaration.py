from typing import Any

import dagster as dg
from dagster._core.remote_representation.external_data import ScheduleSnap, SensorSnap
from dagster._serdes import deserialize_value, serialize_value

from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.components.sensors import sensors_for
from agent_pipelines.engine.declaration import DeclaredTriggers
from agent_pipelines_tests.components.triggering import spec

TRIGGERS: list[dict[str, Any]] = [
    {"kind": "cron", "cron": "0 6 * * *", "timezone": "Europe/Berlin", "variables": {"a": "{{ event.b }}"}},
    {"kind": "interval", "every": "15m", "offset": "30s"},
    {"kind": "event", "event": "commit.pushed", "match": {"branch": "main"}},
    {"kind": "after", "task": "other", "enabled": False},
]


def repository(**task: Any) -> dg.RepositoryDefinition:
    @dg.op
    def work() -> None: ...

    jobs = [dg.GraphDefinition(name=name, node_defs=[work]).to_job(name=name) for name in ("app__report", "app__other")]
    declared = spec(triggers=TRIGGERS, **task)
    schedules, sensors = schedules_for(declared, "app__report"), sensors_for(declared, "app__report")
    return dg.Definitions(jobs=jobs, schedules=schedules, sensors=sensors).get_repository_def()


def test_a_schedule_tells_its_trigger_to_a_process_that_has_not_loaded_it() -> None:
    declared = spec(triggers=TRIGGERS, priority=7)
    loaded = repository(priority=7)
    for number, trigger in enumerate(("cron", "interval")):
        snap = ScheduleSnap.from_def(loaded.get_schedule_def(f"app__report__{trigger}"), loaded)
        read = DeclaredTriggers.from_metadata(deserialize_value(serialize_value(snap), ScheduleSnap).metadata)
        assert read is not None
        assert read.triggers == (declared.triggers[number],)
        assert read.task.model_dump() == {
            "workspace": "default",
            "application": "app",
            "task": "report",
            "job": "app__report",
            "lane": "run",
            "priority": 7,
            "spec_hash": declared.spec_hash,
        }


def test_a_sensor_tells_the_triggers_that_it_watches() -> None:
    loaded = repository(lane="burst")
    snap = SensorSnap.from_def(loaded.get_sensor_def("app__report__triggers"), loaded)
    sent = deserialize_value(serialize_value(snap), SensorSnap).metadata
    assert sent is not None
    read = DeclaredTriggers.from_metadata(sent.standard_metadata or {})
    assert read is not None
    assert read.triggers == (spec(triggers=TRIGGERS).triggers[2],)  # the other one is not enabled
    assert (read.task.key, read.task.lane) == (("default", "app", "report"), "burst")


def test_others_have_none() -> None:
    assert DeclaredTriggers.from_metadata({"task": dg.TextMetadataValue("app/report")}) is None
