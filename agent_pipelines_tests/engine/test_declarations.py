from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from dagster import DagsterInstance
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.trigger import Interval
from agent_pipelines.engine.declarations import Declarations
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.trigger_history import HistoryEntry
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines.store.database import Database
from agent_pipelines_tests.engine.project import write_project

PROJECT = """
import dagster as dg
from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.components.sensors import sensors_for
from agent_pipelines.core.task import TaskSpec

@dg.op
def work(): ...

job = dg.GraphDefinition(name="app__job", node_defs=[work]).to_job(name="app__job")
spec = TaskSpec.model_validate({
    "name": "job", "application": "app", "intent": "Work", "agent": "writer", "prompt": "Work", "priority": 3,
    "triggers": [{"kind": "interval", "every": "EVERY"}, {"kind": "event", "event": "pushed"}],
})
defs = dg.Definitions(jobs=[job], schedules=schedules_for(spec, "app__job"), sensors=sensors_for(spec, "app__job"))
"""
BROKEN = "raise ImportError('a module is missing')"


class Case:
    """A project on disk, the workspace of a daemon that has loaded it, and our record of what it declares."""

    def __init__(self, directory: Path, instance: DagsterInstance, database: Database, clock: ManualClock) -> None:
        self.directory = directory
        self.instance = instance
        self.database = database
        self.triggers = Triggers(clock, Ticks(clock))
        self.clock = clock
        self.declarations = Declarations(instance, database, self.triggers)

    def look(self, definitions: str, *, on: bool | None = None) -> int:
        """Look at a project of these definitions, as a daemon does after it has loaded them; `on` switches its schedule first."""
        self.clock.time += 1_000_000
        self.declarations._next_look = 0.0  # pyright: ignore[reportPrivateUsage]
        directory = self.directory / str(self.clock.time)  # bytecode is told apart by the second of its source only
        with Workspace(self.instance, write_project(directory, definitions)) as workspace:
            try:
                (location,) = workspace.locations()
            except DefinitionError:
                location = None
            if on is not None:
                DagsterGateway(self.instance, workspace.locations).set_schedule("app__job__interval", on)
            entries = {"project": SimpleNamespace(code_location=location)}
            seen = SimpleNamespace(get_code_location_entries=lambda: entries)
            return self.declarations.look(cast("BaseWorkspaceRequestContext", seen))

    def history(self, name: str) -> list[HistoryEntry]:
        with self.database.reading() as connection:
            entries = self.triggers.history.entries(connection, ("default", "app", "job"))
        return [entry for entry in reversed(entries) if entry.trigger == name]


@pytest.fixture
def case(tmp_path: Path, database: Database, clock: ManualClock) -> Iterator[Case]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Case(tmp_path / "project", instance, database, clock)


def test_what_is_declared_edited_broken_and_gone_is_noted(case: Case) -> None:
    assert case.look(PROJECT.replace("EVERY", "5s")) == 2
    assert case.look(PROJECT.replace("EVERY", "5s")) == 0
    with case.database.reading() as connection:
        stored = case.triggers.get(connection, ("default", "app", "job"), "interval")
    assert stored is not None
    assert (stored.state, stored.source, stored.priority, stored.lane) == ("on", "declared", 3, "run")
    assert stored.next_due_at is not None
    assert case.look(PROJECT.replace("EVERY", "7s")) == 1
    assert case.look(BROKEN) == 0, "what cannot be loaded stays as it was"
    assert case.look("import dagster as dg\ndefs = dg.Definitions()") == 2
    assert [entry.state for entry in case.history("interval")] == ["on", "on", "removed"]
    assert [entry.state for entry in case.history("event")] == ["on", "removed"]
    first, second, third = case.history("interval")
    assert first.effective_at < second.effective_at < third.effective_at


def test_what_another_version_declares_stays_as_it_was_and_harms_no_other(case: Case) -> None:
    case.look(PROJECT.replace("EVERY", "5s"))
    unknown = """
old = defs.schedules[0]
metadata = {**old.metadata, "agent_pipelines/trigger": dg.JsonMetadataValue({"kind": "tide"})}
strange = dg.ScheduleDefinition(name=old.name, job_name=old.job_name, cron_schedule="* * * * *", metadata=metadata)
defs = dg.Definitions(jobs=[job], schedules=[strange], sensors=sensors_for(spec, "app__job"))
"""
    assert case.look(PROJECT.replace("EVERY", "5s").replace('"pushed"', '"pulled"') + unknown) == 1
    assert [entry.state for entry in case.history("interval")] == ["on"]
    assert len(case.history("event")) == 2


def test_switches_in_dagsters_pages_are_noted_and_a_pause_outlasts_them(case: Case) -> None:
    case.look(PROJECT.replace("EVERY", "5s"))

    case.look(PROJECT.replace("EVERY", "5s"), on=False)
    case.look(PROJECT.replace("EVERY", "5s"), on=True)
    assert [entry.state for entry in case.history("interval")] == ["on", "off", "on"]
    with case.database.transaction() as connection:
        stored = case.triggers.get(connection, ("default", "app", "job"), "interval")
        assert stored is not None
        case.triggers.put(
            connection, stored.task_key, stored.definition, source="declared", state="paused", actor="kim", reason="too loud",
            lane=stored.lane, priority=stored.priority,
        )  # fmt: skip
    case.declarations = Declarations(case.instance, case.database, case.triggers)
    case.look(PROJECT.replace("EVERY", "5s"), on=True)
    assert [(entry.state, entry.reason) for entry in case.history("interval")][-1] == ("paused", "too loud")


def test_a_task_that_is_registered_too_keeps_the_triggers_of_its_registration(case: Case) -> None:
    registered = Interval(every=Duration(60))
    with case.database.transaction() as connection:
        case.triggers.put(connection, ("default", "app", "job"), registered, source="registered", state="on", actor="kim")
    case.look(PROJECT.replace("EVERY", "5s"))
    with case.database.reading() as connection:
        stored = case.triggers.get(connection, ("default", "app", "job"), "interval")
    assert stored is not None
    assert (stored.source, stored.definition) == ("registered", registered)
