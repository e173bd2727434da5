"""Lists of executions against a plain loop over all of them."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.ledger import search
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.ledger.specs import TaskSpecs
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Database

MINUTE = 60_000_000
SPECS = [
    TaskSpec(name=name, application=application, workspace=workspace, intent="Work", agent="worker")
    for workspace, application, name in (
        ("default", "sales", "daily"),
        ("default", "sales", "orders"),
        ("other", "sales", "daily"),
    )
]
WORDS = ("apple", "pear", "Plum", "fig-tree", "quince_jam", "Äpfel")


class Many:
    """Executions of a few tasks, made one after the other."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.executions = Executions(clock)
        self.chance = random.Random(7)
        self.number = 0
        with database.transaction() as connection:
            for spec in SPECS:
                TaskSpecs(clock).put(connection, spec)

    def add(self, count: int) -> None:
        with self.database.transaction() as connection:
            for _ in range(count):
                self._one(connection)

    def _one(self, connection: sa.Connection) -> None:
        self.number += 1
        spec = self.chance.choice(SPECS)
        invocation = Invocation(
            workspace=spec.workspace,
            application=spec.application,
            task=spec.name,
            spec_hash=spec.spec_hash,
            trigger="cron",
            origin=self.chance.choice([Origin.SCHEDULE, Origin.EVENT]),
            occurrence=str(self.number),
            due_at=1,
            logical_at=1,
        )
        run = RunRef(run_id=f"run-{self.number % 5}")
        execution = self.executions.admit(connection, invocation, run, dedupe_key=None, trace_id="0" * 32).execution
        status = self.chance.choice([Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.SKIPPED])
        words = " ".join(self.chance.choices(WORDS, k=2))
        error = (ErrorClass.SERVER, Stage.INVOKE, words)
        if status is not Status.RUNNING:
            failed = status is Status.FAILED
            self.executions.close(
                connection, execution.id, status, text=None if failed else words, error=error if failed else None
            )
        # Clocks of two hosts: the next one may be behind.
        self.clock.time += self.chance.choice([MINUTE, 2 * MINUTE, -MINUTE // 2])

    def all(self) -> list[StoredExecution]:
        """All of the default workspace, newest first."""
        with self.database.reading() as connection:
            return list(self.executions.list(connection, limit=10_000))

    def found(self, conditions: Mapping[str, Any], *, limit: int) -> list[int]:
        """What all pages together show."""
        seen: list[int] = []
        while True:
            with self.database.reading() as connection:
                before = seen[-1] if seen else None
                page = self.executions.list(connection, **conditions, before=before, limit=limit)
            seen += [execution.seq for execution in page]
            if len(page) < limit:
                return seen


@pytest.fixture
def many(database: Database, clock: ManualClock) -> Many:
    made = Many(database, clock)
    made.add(120)
    return made


def expected(execution: StoredExecution, conditions: Mapping[str, Any]) -> bool:
    equal = {"application": "application", "task": "task", "status": "status", "origin": "origin", "run_id": "run_id"}
    if any(conditions.get(name) not in (None, getattr(execution, field)) for name, field in equal.items()):
        return False
    if not conditions.get("created_from", 0) <= execution.created_at < conditions.get("created_to", 2**62):
        return False
    words = str(conditions.get("text") or "").lower().split()
    body = search.searchable(execution)["body"].lower().replace("/", " ").split()
    # What runs has said nothing yet.
    return not words or (execution.status is not Status.RUNNING and all(word in body for word in words))


@pytest.mark.parametrize("near", [1, 7, 10_000])
def test_every_combination_of_conditions_finds_what_a_loop_finds(many: Many, monkeypatch: pytest.MonkeyPatch, near: int) -> None:
    monkeypatch.setattr(search, "_NEAR", near)
    everything = many.all()
    instants = sorted(execution.created_at for execution in everything)
    chance = random.Random(near)
    for _ in range(150):
        start, end = sorted(chance.choices(instants, k=2))
        possible: dict[str, list[Any]] = {
            "application": ["sales", "finance"],
            "task": ["daily", "orders"],
            "status": list(Status),
            "origin": [Origin.SCHEDULE, Origin.EVENT, Origin.AFTER],
            "run_id": ["run-1"],
            "created_from": [start],
            "created_to": [end],
            "text": ["apple", "plum", "pear apple", "fig-tree", "quince_jam", "äpfel", "daily", "nowhere"],
        }
        chosen = chance.sample(sorted(possible), k=chance.randint(0, 4))
        conditions = {name: chance.choice(possible[name]) for name in chosen}
        wanted = [execution.seq for execution in everything if expected(execution, conditions)]
        assert many.found(conditions, limit=chance.choice([1, 3, 50])) == wanted, conditions


def test_pages_stay_as_they_are_while_executions_are_added(many: Many) -> None:
    wanted = [execution.seq for execution in many.all()]
    seen: list[int] = []
    while len(seen) < len(wanted):
        with many.database.reading() as connection:
            page = many.executions.list(connection, before=seen[-1] if seen else None, limit=10)
        seen += [execution.seq for execution in page]
        many.add(3)
    assert seen == wanted


@pytest.mark.parametrize("text", ["!!!", '"', "a AND", "body : apple", "NEAR(", "*", "'", "apple*", "-pear"])
def test_no_text_is_a_syntax_error(many: Many, text: str) -> None:
    many.found({"text": text}, limit=50)


def test_a_resumed_execution_is_found_as_what_it_is_now(database: Database, clock: ManualClock) -> None:
    many = Many(database, clock)
    spec = SPECS[0]
    invocation = Invocation(
        application=spec.application,
        task=spec.name,
        spec_hash=spec.spec_hash,
        trigger="cron",
        origin=Origin.SCHEDULE,
        occurrence="1",
        due_at=1,
        logical_at=1,
    )
    with database.transaction() as connection:
        admitted = many.executions.admit(connection, invocation, RunRef(run_id="a"), dedupe_key=None, trace_id="0" * 32)
        error = (ErrorClass.SERVER, Stage.INVOKE, "walrus")
        many.executions.close(connection, admitted.execution.id, Status.FAILED, error=error)
    failed, running = {"text": "walrus", "status": Status.FAILED}, {"text": "walrus", "status": Status.RUNNING}
    assert (len(many.found(failed, limit=5)), len(many.found(running, limit=5))) == (1, 0)
    with database.transaction() as connection:
        again = RunRef(run_id="b", parent_run_id="a", resumes=True)
        many.executions.admit(connection, invocation, again, dedupe_key=None, trace_id="0" * 32)
    assert (len(many.found(failed, limit=5)), len(many.found(running, limit=5))) == (0, 1)
    with database.transaction() as connection:
        many.executions.close(connection, admitted.execution.id, Status.SUCCEEDED, text="an otter")
    assert len(many.found(failed, limit=5)) == 0
    assert len(many.found({"text": "walrus"}, limit=5)) == 0
    assert len(many.found({"text": "otter", "status": Status.SUCCEEDED}, limit=5)) == 1


def test_an_execution_is_found_by_the_beginning_of_its_id(many: Many) -> None:
    some = many.all()[5]
    with many.database.reading() as connection:
        for prefix in (some.id, some.id.replace("-", ""), some.id.upper(), some.id[:-3]):
            assert [found.id for found in many.executions.find(connection, prefix)] == [some.id]
        assert len(many.executions.find(connection, some.id[:2])) == 5
        for nothing in ("", "-", "xyz", "%", "ffffffff", some.id + "0"):
            assert many.executions.find(connection, nothing) == []
