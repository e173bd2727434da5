"""The board over events and assets; what it does about followers is tested beside the sensors, in `test_after.py`."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.event import listen

from agent_pipelines.components.watch import board
from agent_pipelines.components.watch.board import TriggerWatch
from agent_pipelines.core.clock import ManualClock, SystemClock
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Event
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.tick import REPAIR, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import triggers as trigger_table
from agent_pipelines_tests.components.triggering import BoardLoop, Deployment, Scripted, spec
from agent_pipelines_tests.conftest import create_postgres_database

PUSHED = {"kind": "event", "event": "commit.pushed", "variables": {"commit": "{{ event.commit }}"}}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture
def deployment(database: Database, clock: ManualClock, instance: dg.DagsterInstance) -> Deployment:
    return Deployment(Hub(database, clock), instance, clock)


def loop(deployment: Deployment, *triggers: Mapping[str, object], name: str = "report", **more: Any) -> BoardLoop:
    """A board that has looked once."""
    looping = BoardLoop(deployment, spec(name, triggers=list(triggers)), **more)
    assert looping.look() == 0
    return looping


def commits(deployment: Deployment, task: str = "report") -> list[object]:
    return [variables(tick).get("commit") for tick in deployment.ticks(task)]


def variables(tick: Tick) -> dict[str, Any]:
    found = tick.inputs["variables"]
    assert isinstance(found, dict)
    return found


# --- events


@pytest.mark.parametrize("source", ["declared", "registered"])
@pytest.mark.parametrize("restarts", [False, True])
def test_each_event_has_one_tick(deployment: Deployment, source: Any, restarts: bool) -> None:
    deployment.put("commit.pushed", {"commit": "before"})
    deployment.clock.time += 1
    looping = loop(deployment, PUSHED, source=source, restarts=restarts)
    event_id = deployment.put("commit.pushed", {"commit": "c1"})
    assert [looping.look() for _ in range(3)] == [1, 0, 0]
    (tick,) = deployment.ticks()
    assert (tick.origin, tick.trigger, tick.occurrence, tick.run_id) == (Origin.EVENT, "event", event_id, None)
    assert (tick.inputs["event_id"], variables(tick)) == (event_id, {"commit": "c1"})
    assert tick.due_at == deployment.clock.time
    deployment.clock.time += 600_000_000
    assert looping.look() == 0
    deployment.put("commit.pushed", {"commit": "c2"})
    assert looping.look() == 1
    assert commits(deployment) == ["c1", "c2"]


def test_ticks_are_claimed_as_the_row_says(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED, source="registered", lane="burst")
    looping.put(priority=7, spec_hash="changed")  # which makes nothing else due
    deployment.put("commit.pushed", {"commit": "c1"})
    assert looping.look() == 1
    (tick,) = deployment.ticks()
    assert (tick.lane, tick.priority, tick.spec_hash) == ("burst", 7, "changed")
    assert tick.trigger_revision == revision_of(looping.task.triggers[0])


def test_several_triggers_see_what_matches(deployment: Deployment) -> None:
    looping = loop(
        deployment,
        {**PUSHED, "name": "main", "match": {"branch": "main"}},
        {**PUSHED, "name": "final", "match": {"final": True}},
        {"kind": "event", "name": "tagged", "event": "tag.pushed"},
    )
    for branch, final in [("other", True), ("main", False), ("main", 1), ("main", True)]:
        deployment.put("commit.pushed", {"commit": f"{branch}-{final}", "branch": branch, "final": final})
    deployment.put("tag.pushed", {}, workspace="another")
    assert looping.look() == 5
    claimed = [(tick.trigger, variables(tick)["commit"]) for tick in deployment.ticks()]
    assert sorted(claimed) == [
        ("final", "main-True"),
        ("final", "other-True"),
        ("main", "main-1"),
        ("main", "main-False"),
        ("main", "main-True"),
    ]


def test_an_event_without_what_the_variables_name_fails_its_launch_only(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {})
    deployment.put("commit.pushed", {"commit": "c2"})
    assert looping.look() == 2
    assert [tick.verdict for tick in deployment.ticks()] in ([Verdict.LAUNCH_FAILED, None], [None, Verdict.LAUNCH_FAILED])


def test_a_thousand_events_have_one_tick_each_though_two_look(database: Database, instance: dg.DagsterInstance) -> None:
    deployment = Deployment(Hub(database, SystemClock()), instance, ManualClock())
    looping = BoardLoop(deployment, spec(triggers=[PUSHED, {**PUSHED, "name": "again"}]))
    boards = [TriggerWatch(Hub(database, SystemClock()), instance) for _ in range(2)]
    assert [each.look() for each in boards] == [0, 0]
    with database.transaction() as connection:
        for number in range(1_000):
            deployment.hub.inbox.put(connection, "commit.pushed", {"commit": str(number)})
    claimed: list[int] = []
    threads = [threading.Thread(target=lambda each=each: claimed.extend(each.look() for _ in range(4))) for each in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 8
    assert sum(claimed) == 2_000
    for trigger in ("event", "again"):
        found = deployment.ticks(trigger=trigger)
        assert sorted(int(variables(tick)["commit"]) for tick in found) == list(range(1_000))
    assert looping.look() == 0


def test_a_burst_is_taken_in_portions(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_CLAIMS", 100)
    looping = loop(deployment, PUSHED)
    for number in range(230):
        deployment.put("commit.pushed", {"commit": str(number)})
    assert looping.look() == 100
    looping.board = None  # the daemon dies with the rest in its memory
    assert [looping.look() for _ in range(3)] == [100, 30, 0]
    assert sorted(map(int, commits(deployment))) == list(range(230))  # pyright: ignore[reportArgumentType]


def test_an_event_of_an_open_transaction_is_not_lost(
    postgres_template: str, clock: ManualClock, instance: dg.DagsterInstance
) -> None:
    """On PostgreSQL; SQLite has one writer at a time."""
    database = Database(create_postgres_database(postgres_template))
    deployment = Deployment(Hub(database, clock), instance, clock)
    looping = loop(deployment, PUSHED)
    with database.transaction() as connection:
        deployment.hub.inbox.put(connection, "commit.pushed", {"commit": "slow"})
        deployment.clock.time += 1_000_000
        deployment.put("commit.pushed", {"commit": "quick"})
        assert looping.look() == 1
        deployment.clock.time += 30_000_000
        assert looping.look() == 0
    deployment.clock.time += 16_000_000
    assert looping.look() == 1
    assert commits(deployment) == ["quick", "slow"]
    database.close()


def test_what_happens_while_a_trigger_is_not_on_is_nothing_to_it(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.clock.time += 1_000_000
    looping.put("paused")
    deployment.put("commit.pushed", {"commit": "while paused"})
    assert looping.look() == 0
    deployment.clock.time += 1_000_000
    looping.put("on")
    deployment.put("commit.pushed", {"commit": "just after"})
    assert looping.look() == 1
    looping.put("off")
    deployment.put("commit.pushed", {"commit": "off"})
    assert [looping.look() for _ in range(2)] == [0, 0]
    assert commits(deployment) == ["just after"]


def test_a_trigger_that_is_switched_off_during_a_look_claims_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c"})
    read = TriggerWatch._look_for_themselves  # pyright: ignore[reportPrivateUsage]

    def switched_off(self: TriggerWatch, now: int) -> Any:
        looping.put("off")
        return read(self, now)

    monkeypatch.setattr(TriggerWatch, "_look_for_themselves", switched_off)
    assert looping.look() == 0
    assert looping.look() == 0
    assert deployment.ticks() == []


def test_an_edited_trigger_starts_now(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c", "branch": "main"})
    deployment.clock.time += 1
    looping.task = spec(triggers=[{**PUSHED, "match": {"branch": "main"}}])
    looping.put()
    deployment.put("commit.pushed", {"commit": "d", "branch": "main"})
    assert looping.look() == 1
    assert commits(deployment) == ["d"]


def test_a_look_that_failed_is_made_up_for(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c"})
    with monkeypatch.context() as broken:
        broken.setattr(deployment.hub.triggers, "advance", None)
        with pytest.raises(TypeError):
            looping.look()
    assert deployment.ticks() == []
    assert looping.look() == 1


def test_ten_thousand_triggers_that_wait_cost_a_few_queries(deployment: Deployment) -> None:
    deployment.put("type.5", {"seen": "before"})
    deployment.clock.time += 1
    _ten_thousand_triggers(deployment)
    deployment.put("type.6", {"seen": "at the first look"})
    watch = TriggerWatch(deployment.hub, deployment.instance)
    queries: list[str] = []
    engine = deployment.hub.database.engine
    listen(engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
    assert watch.look() == 10
    assert len(queries) < 60
    queries.clear()
    assert watch.look() == 0
    assert len([query for query in queries if query.startswith("SELECT")]) == 2, queries
    assert not any(word in query for query in queries for word in ("INSERT", "UPDATE", "DELETE"))
    queries.clear()
    deployment.put("type.17", {})
    deployment.put("type.that.nobody.waits.for", {})
    assert watch.look() == 10
    assert len([query for query in queries if query.startswith("SELECT")]) == 4, queries
    tasks = {f"task_{number}" for type in (6, 17) for number in range(type, 10_000, 1_000)}
    assert {tick.task for tick in _ticks(deployment)} == tasks


def _ten_thousand_triggers(deployment: Deployment) -> None:
    def row(number: int) -> dict[str, Any]:
        trigger = Event(event=f"type.{number % 1_000}")
        return {
            "workspace": "default",
            "application": "app",
            "task": f"task_{number}",
            "trigger": "event",
            "source": "registered",
            "definition": trigger.model_dump(mode="json"),
            "revision": revision_of(trigger),
            "lane": "burst",
            "priority": 0,
            "state": "on",
            "since": deployment.clock.time,
            "looked_until": deployment.clock.time,
            "marks": {},
        }

    with deployment.hub.database.transaction() as connection:
        connection.execute(trigger_table.insert(), [row(number) for number in range(10_000)])


def _ticks(deployment: Deployment) -> list[Tick]:
    with deployment.hub.database.reading() as connection:
        return list(deployment.hub.ticks.list(connection, limit=10_000))


# --- followers in bursts


def test_a_failed_upstream_in_a_burst_is_repaired_in_a_burst(deployment: Deployment) -> None:
    upstream = spec("upstream", triggers=[PUSHED])
    first = loop(deployment, PUSHED, name="upstream", source="registered", lane="burst")
    follower = loop(deployment, {"kind": "after", "task": "upstream"}, source="registered", lane="burst")
    runtime = Scripted(False, True)
    deployment.put("commit.pushed", {"commit": "c"})
    assert first.look() == 1
    (tick,) = _take(deployment)
    _execute(deployment, upstream, tick, runtime)
    assert follower.look() == 1
    (repair,) = _take(deployment)
    assert (repair.trigger, repair.lane, repair.spec_hash, repair.task) == (REPAIR, "burst", upstream.spec_hash, "upstream")
    assert follower.look() == 0
    _execute(deployment, upstream, repair, runtime)
    assert follower.look() == 1
    (last,) = _take(deployment)
    assert (last.task, last.lane, last.verdict) == ("report", "burst", None)
    assert [(each.trigger, each.verdict) for each in deployment.ticks("upstream")] == [
        ("event", Verdict.RAN),
        (REPAIR, Verdict.RAN),
    ]
    with deployment.hub.database.reading() as connection:
        (execution,) = deployment.hub.executions.list(connection, application="app", task="upstream")
    assert (execution.status, execution.resumptions, runtime.calls) == (Status.SUCCEEDED, 1, 2)


def _take(deployment: Deployment) -> list[Tick]:
    with deployment.hub.database.transaction() as connection:
        now = deployment.clock.time
        return list(deployment.hub.ticks.take(connection, lane="burst", until=now, limit=10, run_id="burst", workspace="default"))


def _execute(deployment: Deployment, task: TaskSpec, tick: Tick, runtime: Scripted) -> None:
    """What a burst does with a tick."""
    _, launch, _ = launch_of(tick)
    deployment.run(task, launch, runtime, run_id="burst")


def test_followers_that_wait_for_their_instant_cost_nothing_until_then(deployment: Deployment) -> None:
    first = loop(deployment, PUSHED, name="upstream")
    follower = loop(deployment, {"kind": "after", "task": "upstream", "offset": "15m"})
    deployment.put("commit.pushed", {"commit": "c"})
    assert first.look() == 1
    due_at = deployment.clock.time + 900_000_000
    (launch,) = first.evaluate(after=1)
    deployment.run(first.task, launch)
    assert [follower.look() for _ in range(3)] == [0, 0, 0]
    queries: list[str] = []
    listen(deployment.hub.database.engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
    deployment.clock.time = due_at - 1
    assert follower.look() == 0
    assert len([query for query in queries if query.startswith("SELECT")]) <= 3, queries
    deployment.clock.time = due_at
    assert follower.look() == 1
    (tick,) = deployment.ticks()
    assert (tick.due_at, tick.claimed_at) == (due_at, due_at)


# --- assets


@pytest.mark.parametrize("restarts", [False, True])
def test_each_materialization_has_one_tick(deployment: Deployment, restarts: bool) -> None:
    asset = f"sales/orders_{restarts}_{'sqlite' if deployment.hub.database.is_sqlite else 'postgresql'}"
    key = dg.AssetKey.from_user_string(asset)
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization(key))
    looping = loop(deployment, {"kind": "asset", "asset": asset}, restarts=restarts)
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("another"))
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="p"))
    assert [looping.look() for _ in range(3)] == [1, 0, 0]
    deployment.clock.time += 3_600_000_000
    assert looping.look() == 0
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization(key))
    assert looping.look() == 1
    one, other = deployment.ticks()
    assert (one.origin, one.inputs["asset"], one.inputs["partition"]) == (Origin.ASSET, asset, "p")
    assert int(other.occurrence) > int(one.occurrence)


def test_assets_are_not_asked_for_while_nothing_happens_in_dagster(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    looping = loop(deployment, {"kind": "asset", "asset": "quiet"})
    looping.look()
    deployment.clock.time += 60_000_000
    looping.look()
    for name in ("fetch_materializations", "get_asset_records"):
        monkeypatch.setattr(dg.DagsterInstance, name, None)
    assert looping.look() == 0
