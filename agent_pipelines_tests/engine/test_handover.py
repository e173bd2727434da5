from collections.abc import Sequence
from dataclasses import dataclass

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.handover import ASKED_OF_DAGSTER, adopt_requested
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.store.database import Database

TASK = ("default", "app", "report")


@dataclass(frozen=True)
class Run:
    run_id: str


class Runs:
    """Dagster, which has launched some ticks and been asked about some."""

    def __init__(self, **launched: list[str]) -> None:
        self.launched = launched
        self.asked: list[str] = []

    def runs_of_tick(self, tick: Tick) -> Sequence[Run]:
        self.asked.append(tick.occurrence)
        return [Run(run_id) for run_id in self.launched.get(tick.occurrence, [])]


def test_ticks_that_dagster_has_launched_are_not_free_any_more(database: Database, clock: ManualClock) -> None:
    ticks = Ticks(clock)
    with database.transaction() as connection:
        for occurrence, by_dagster in (("a", True), ("b", True), ("c", False), ("d", True)):
            inputs = ASKED_OF_DAGSTER if by_dagster else {}
            ticks.claim(connection, TASK, "event", occurrence, origin=Origin.EVENT, due_at=clock.time, inputs=inputs)
        ticks.decide(connection, TASK, "event", "d", Verdict.SKIPPED, reason="nothing to do")
    runs = Runs(a=["executed again", "launched"])
    assert adopt_requested(database, ticks, runs) == 1
    assert sorted(runs.asked) == ["a", "b"]
    with database.transaction() as connection:
        taken = ticks.take(connection, lane="run", until=clock.time, limit=10)
        assert sorted(tick.occurrence for tick in taken) == ["b", "c"]
        adopted = ticks.find(connection, TASK, "event", "a")
        assert adopted is not None
        assert adopted.run_id == "launched"
    assert adopt_requested(database, ticks, runs) == 0
