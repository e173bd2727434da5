from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from agent_pipelines.components.retention import forget
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fake import FakeRuntime
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import metadata

DAY = 86_400_000_000
SPEC = TaskSpec(name="job", intent="Work", agent="fake", prompt="hello {{ item }}", emits="job.done")


@pytest.fixture
def gateway(tmp_path: Path) -> DagsterGateway:
    return DagsterGateway(dg.DagsterInstance.local_temp(str(tmp_path)))


def _execute(hub: Hub, clock: ManualClock, item: str) -> None:
    now = clock.now()
    values = {"task": "job", "spec_hash": "", "trigger": "cron", "origin": Origin.SCHEDULE, "occurrence": new_id(), "item": item}
    invocation = Invocation.model_validate({**values, "due_at": now, "logical_at": now})
    agent = Agent("fake", [Node("n", FakeRuntime())])
    assert hub.runner.execute(invocation, SPEC, agent, run=RunRef(run_id=new_id())).status == "succeeded"


def _counts(database: Database) -> dict[str, int]:
    with database.reading() as connection:
        return {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }


def test_sixty_days_are_kept_and_nothing_older(database: Database, clock: ManualClock, gateway: DagsterGateway) -> None:
    hub = Hub(database, clock)
    start = clock.time
    for day, item in ((0, "oldwalrus"), (2, "lastkept"), (61, "today")):
        clock.time = start + day * DAY
        _execute(hub, clock, item)
    removed = forget(hub, gateway, record_days=60, dagster_run_days=60)
    assert removed == {"executions": 1, "ticks": 1, "events": 1, "bursts": 0, "batches": 0, "outbox": 1, "dagster_runs": 0}
    counts = _counts(database)
    assert {counts[name] for name in ("executions", "ticks", "inbox", "outbox", "attempts", "execution_texts")} == {2}
    with database.reading() as connection:
        assert [row.item for row in hub.executions.list(connection)] == ["today", "lastkept"]
        assert hub.executions.list(connection, text="oldwalrus") == []
    assert forget(hub, gateway, record_days=60, dagster_run_days=60)["executions"] == 0


def test_what_has_no_end_yet_is_kept_whatever_its_age(database: Database, clock: ManualClock, gateway: DagsterGateway) -> None:
    hub = Hub(database, clock)
    _execute(hub, clock, "done")
    with database.transaction() as connection:
        spec_hash = hub.ledger.specs.put(connection, SPEC)
        running = Invocation(
            task="job", spec_hash=spec_hash, trigger="cron", origin=Origin.SCHEDULE, occurrence="x", due_at=0, logical_at=0
        )
        hub.executions.admit(connection, running, RunRef(run_id="r"), dedupe_key=None, trace_id="0" * 32)
        hub.ticks.claim(connection, SPEC.key, "cron", "open", origin=Origin.SCHEDULE, due_at=0)
    clock.time += 1_000 * DAY
    forget(hub, gateway, record_days=60, dagster_run_days=60)
    counts = _counts(database)
    assert (counts["executions"], counts["ticks"]) == (1, 1)


def test_dagster_runs_that_are_over_go_and_others_stay(database: Database, tmp_path: Path) -> None:
    @dg.op
    def work() -> None: ...

    @dg.job
    def daily() -> None:
        work()

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        over = daily.execute_in_process(instance=instance).run_id
        queued = instance.create_run_for_job(daily).run_id
        clock = ManualClock()
        hub = Hub(database, clock)
        clock.time = 4_102_444_800_000_000  # 2100-01-01
        assert forget(hub, DagsterGateway(instance), record_days=60, dagster_run_days=60)["dagster_runs"] == 1
        assert instance.get_run_by_id(over) is None
        assert instance.get_run_by_id(queued) is not None
