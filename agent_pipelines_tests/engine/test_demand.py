from typing import Any

import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.demand import TRIGGER, Demand
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

TASK = ("default", "app", "report")
SECRET = "sk-verysecretkey0123456789"


class Gateway:
    """Takes launches, or refuses them."""

    def __init__(self, database: Database, error: Exception | None = None) -> None:
        self.database = database
        self.error = error
        self.launched: list[tuple[str, Launch, str]] = []

    def launch(self, job_name: str, launch: Launch, *, run_id: str) -> str:
        # The claim is durable by now: nothing is launched that is not accounted for.
        assert tick_of(self.database, run_id).run_id == run_id
        if self.error is not None:
            raise self.error
        self.launched.append((job_name, launch, run_id))
        return run_id


def tick_of(database: Database, run_id: str) -> Tick:
    with database.reading() as connection:
        tick = Ticks(ManualClock()).find(connection, TASK, TRIGGER, run_id)
    assert tick is not None
    return tick


def ask(database: Database, clock: ManualClock, gateway: Gateway, **given: Any) -> str:
    demand = Demand(database, Ticks(clock), clock)
    return demand.launch(gateway, TASK, "app__report", actor="kim", **given)  # pyright: ignore[reportArgumentType]


def test_a_launch_carries_what_was_asked_for(database: Database, clock: ManualClock) -> None:
    gateway = Gateway(database)
    run_id = ask(database, clock, gateway, logical_at=5, variables={"topic": "the night"})
    ((job, launch, launched),) = gateway.launched
    assert (job, launched) == ("app__report", run_id)
    assert launch == Launch(
        task="app/report",
        trigger="on_demand",
        origin=Origin.ON_DEMAND,
        occurrence=run_id,
        due_at=clock.now(),
        logical_at=5,
        actor="kim",
        variables={"topic": "the night"},
    )
    tick = tick_of(database, run_id)
    assert (tick.verdict, tick.due_at, tick.logical_at, tick.actor) == (None, clock.now(), 5, "kim")


def test_each_launch_is_a_tick_of_its_own(database: Database, clock: ManualClock) -> None:
    gateway = Gateway(database)
    assert len({ask(database, clock, gateway) for _ in range(3)}) == 3
    assert {launch.logical_at for _, launch, _ in gateway.launched} == {clock.now()}


def test_a_secret_is_refused_because_it_would_stand_in_the_tags_of_the_run(database: Database, clock: ManualClock) -> None:
    gateway = Gateway(database)
    with pytest.raises(DefinitionError, match=r"field `variables\.key`: holds a secret") as refused:
        ask(database, clock, gateway, variables={"topic": "x", "key": [SECRET]})
    assert SECRET not in str(refused.value)
    assert gateway.launched == []
    with database.reading() as connection:
        assert Ticks(clock).list(connection) == []


def test_a_refused_launch_is_told_to_the_tick(database: Database, clock: ManualClock) -> None:
    with pytest.raises(DefinitionError):
        ask(database, clock, Gateway(database, DefinitionError(f"no job is named 'app__report' {SECRET}")))
    with database.reading() as connection:
        (tick,) = Ticks(clock).list(connection)
    assert (tick.verdict, tick.reason) == (Verdict.LAUNCH_FAILED, "no job is named 'app__report' [secret]")


def test_who_asked_is_recorded_with_the_claim_or_not_at_all(database: Database, clock: ManualClock) -> None:
    gateway = Gateway(database)
    told: list[str] = []
    run_id = ask(database, clock, gateway, along=lambda _, run_id: told.append(run_id))
    assert told == [run_id]

    def refuse(connection: sa.Connection, run_id: str) -> None:
        raise ValueError(run_id)

    with pytest.raises(ValueError, match="-"):
        ask(database, clock, gateway, along=refuse)
    with database.reading() as connection:
        assert len(Ticks(clock).list(connection)) == len(gateway.launched) == 1
