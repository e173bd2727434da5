import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from agent_pipelines.components.witness import CHECK, NOBODY, TICKS, ticks_asset, ticks_check, witness_sensor
from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.trigger import Interval
from agent_pipelines.engine.timekeeper import Timekeeper
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import ticks
from agent_pipelines_tests.components.project import Project

SECOND = 1_000_000
MINUTE = 60 * SECOND
EVERY_MINUTE = Interval(every=Duration(60), catch_up="none")


@dataclass
class Watched:
    """A deployment with a daemon that may fall silent, and Dagster's loop over the sensor of the witness."""

    hub: Hub
    clock: ManualClock
    instance: dg.DagsterInstance
    cursor: str | None = None
    why: str | None = None
    seen: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    def put(self, name: str = "job", trigger: Interval = EVERY_MINUTE) -> None:
        with self.hub.database.transaction() as connection:
            key = ("default", "app", name)
            self.hub.triggers.put(connection, key, trigger, source="declared", state="on", actor="kim")

    def beat(self, role: str = "leader") -> None:
        with self.hub.database.transaction() as connection:
            self.hub.daemons.beat(connection, "daemon", role)

    def minute(self, *, lost: str | None = None) -> list[dg.AssetCheckEvaluation]:
        """A minute goes by in which the daemon works, then the witness looks; the ticks of a task may get lost."""
        self.clock.time += 5 * SECOND
        self.beat()
        Timekeeper(self.hub.database, self.hub.triggers, self.hub.ticks, self.hub.executions, self.clock).look()
        with self.hub.database.transaction() as connection:
            for tick in self.hub.ticks.open(connection):
                key = tick.task_key
                self.hub.ticks.decide(connection, key, tick.trigger, tick.occurrence, Verdict.SKIPPED, reason="a simulation")
            if lost is not None:
                connection.execute(sa.delete(ticks).where(ticks.c.task == lost, ticks.c.due_at > self.clock.time - MINUTE))
        self.clock.time += 55 * SECOND
        self.beat()
        return self.look()

    def look(self) -> list[dg.AssetCheckEvaluation]:
        sensor = witness_sensor(hub_of=lambda _: self.hub)
        found: SensorExecutionData
        with dg.build_sensor_context(self.instance, cursor=self.cursor, sensor_name=sensor.name) as context:
            found = sensor.evaluate_tick(context)
        self.cursor, self.why = found.cursor, found.skip_message
        events = [event for event in found.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
        self.seen += events
        return events

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        with self.hub.database.reading() as connection:
            return [(row.task, dict(row.body)) for row in self.hub.ledger.outbox.after(connection, 0) if row.kind == "tick.gap"]


@pytest.fixture
def watched(database: Database, clock: ManualClock, tmp_path: Path) -> Watched:
    return Watched(Hub(database, clock), clock, dg.DagsterInstance.local_temp(str(tmp_path)))


def test_books_that_close_are_said_once_an_hour(watched: Watched) -> None:
    watched.put()
    watched.beat()
    said = [watched.minute() for _ in range(130)]
    assert [len(each) for each in said[:3]] == [1, 0, 0]
    assert len(watched.seen) == 3
    for event in watched.seen:
        assert (event.asset_key, event.check_name, event.passed) == (TICKS, CHECK, True)
    assert watched.seen[-1].metadata["skipped"] == dg.IntMetadataValue(watched.seen[-1].metadata["due"].value)
    assert watched.told() == []


def test_a_trigger_that_falls_silent_is_told_once(watched: Watched) -> None:
    watched.put()
    watched.put("other")
    watched.beat()
    start = watched.clock.time
    for _ in range(5):
        watched.minute()
    watched.seen.clear()
    for _ in range(10):
        watched.minute(lost="job")
    assert watched.told() == [
        (
            "job",
            {
                "trigger": "interval",
                "silent_since": isoformat(start + 5 * MINUTE),
                "silent_until": isoformat(start + 5 * MINUTE),
                "instants": 1,
            },
        )
    ]
    (event,) = watched.seen
    assert (event.passed, event.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert event.description is not None
    assert "1 due without a tick" in event.description
    assert "app/job, trigger interval" in event.metadata["first_gaps"].value
    assert watched.why is not None
    assert "due without a tick" in watched.why
    for _ in range(3):
        watched.minute()
    watched.minute(lost="job")
    watched.minute()
    assert [task for task, _ in watched.told()] == ["job", "job"]  # it was heard in between
    for _ in range(65):
        watched.minute()
    assert watched.seen[-1].passed
    assert "told" not in json.loads(watched.cursor or "{}") or len(json.loads(watched.cursor or "{}")["told"]) == 1
    assert len(watched.told()) == 2


def test_a_daemon_that_has_just_begun_may_catch_up(watched: Watched) -> None:
    watched.put()
    watched.clock.time += 30 * MINUTE
    watched.beat()
    assert watched.look() == []
    assert watched.why is not None
    assert "catches up" in watched.why
    (event,) = watched.minute()
    assert event.passed
    assert event.metadata["missed"] == dg.IntMetadataValue(29), "the last one was seen in time"
    assert watched.told() == []


def test_a_daemon_that_is_gone_is_told_of_by_all_its_triggers(watched: Watched) -> None:
    watched.put()
    watched.put("other")
    watched.beat()
    for _ in range(3):
        watched.minute()
    watched.clock.time += 10 * MINUTE
    (event,) = watched.look()
    assert not event.passed
    assert sorted(task for task, _ in watched.told()) == ["job", "other"]


def test_without_a_daemon_there_is_nothing_to_audit(watched: Watched) -> None:
    (event,) = watched.look()
    assert (event.passed, event.severity, event.description) == (False, dg.AssetCheckSeverity.WARN, NOBODY)
    assert watched.why == NOBODY
    watched.clock.time += MINUTE
    assert watched.look() == []
    watched.beat()
    watched.clock.time += 61 * SECOND
    watched.beat("leader")
    (event,) = watched.look() or [None]
    assert event is None or event.passed


def test_the_check_can_be_executed_by_hand(watched: Watched) -> None:
    watched.put()
    watched.beat()
    for _ in range(3):
        watched.minute()
    defs = dg.Definitions(assets=[ticks_asset()], asset_checks=[ticks_check(hub_of=lambda _: watched.hub)])
    for is_whole in (True, False):
        done = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=watched.instance)
        (event,) = done.get_asset_check_evaluations()
        assert event.passed is is_whole
        with watched.hub.database.transaction() as connection:
            connection.execute(sa.delete(ticks))


def test_every_project_has_it(project: Project) -> None:
    repository = project.agent().task("digest").load().get_repository_def()
    assert TICKS in repository.asset_graph.get_all_asset_keys()
    assert not repository.asset_graph.get(TICKS).is_executable
    assert [key.name for key in repository.asset_graph.asset_check_keys if key.asset_key == TICKS] == [CHECK]
    assert repository.has_sensor_def("agent_pipelines__witness")
