from collections.abc import Iterator, Mapping
from datetime import datetime

import dagster as dg
import pytest
import sqlalchemy as sa

from agent_pipelines.components import sensors
from agent_pipelines.components.sensors import RECONCILER, reconciler_sensor, sensors_for
from agent_pipelines.components.watch.cursor import SensorCursor
from agent_pipelines.components.watch.event import matches
from agent_pipelines.core.clock import ManualClock, from_microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.launch import Launch
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import inbox
from agent_pipelines_tests.components.triggering import Deployment, Scripted, SensorLoop, instant, spec
from agent_pipelines_tests.conftest import create_postgres_database

PUSHED = {"kind": "event", "event": "commit.pushed", "variables": {"commit": "{{ event.commit }}"}}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture
def deployment(database: Database, clock: ManualClock, instance: dg.DagsterInstance) -> Deployment:
    return Deployment(Hub(database, clock), instance, clock)


def loop(deployment: Deployment, *triggers: Mapping[str, object], name: str = "report") -> SensorLoop:
    """The sensor of a task, after its first evaluation."""
    looping = SensorLoop(deployment, spec(name, triggers=list(triggers)))
    assert looping.evaluate() == []
    return looping


# --- the definition


def test_a_task_with_schedules_only_has_no_sensor() -> None:
    assert sensors_for(spec(triggers=[{"kind": "cron", "cron": "0 6 * * *"}]), "job") == []
    assert sensors_for(spec(), "job") == []


def test_a_sensor_says_what_it_looks_at() -> None:
    task = spec(
        triggers=[
            {**PUSHED, "match": {"branch": "main"}},
            {"kind": "at", "at": "2027-01-01T09:00:00+01:00"},
            {"kind": "asset", "asset": "sales/orders"},
            {"kind": "after", "task": "other", "offset": "15m", "enabled": False},
        ]
    )
    (sensor,) = sensors_for(task, "app__report")
    assert sensor.name == "app__report__triggers"
    assert [target.job_name for target in sensor.targets] == ["app__report", "app__other"]
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert (sensor.description or "").split("\n\n") == [
        "Starts app/report.",
        "`event`: for each event `commit.pushed` with {'branch': 'main'}",
        "`at`: once, at 2027-01-01T08:00:00Z",
        "`asset`: for each materialization of `sales/orders`",
        "`after`: with each tick of `app/other`, 900 s after it was due and when it is done; "
        "a failed one is repaired once, then: skip (not enabled)",
    ]
    assert sensor.with_attributes(metadata={"more": 1}).targets == sensor.targets


def test_a_sensor_without_an_enabled_trigger_starts_switched_off() -> None:
    (sensor,) = sensors_for(spec(triggers=[{**PUSHED, "enabled": False}]), "app__report")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_an_upstream_that_is_declared_elsewhere_is_found_when_all_is_loaded() -> None:
    @dg.op
    def work() -> None: ...

    def job(name: str) -> dg.JobDefinition:
        return dg.GraphDefinition(name=name, node_defs=[work]).to_job(name=name)

    task = spec("email", triggers=[{"kind": "after", "task": "report"}])
    here = dg.Definitions(jobs=[job("app__email")], sensors=sensors_for(task, "app__email"))
    elsewhere = dg.Definitions(jobs=[job("app__report")])
    dg.Definitions.validate_loadable(dg.Definitions.merge(here, elsewhere))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match='"app__email__triggers" targets job "app__email, app__report"'):
        dg.Definitions.validate_loadable(here)


# --- events


def test_each_event_starts_the_task_once(deployment: Deployment) -> None:
    deployment.put("commit.pushed", {"commit": "before"})
    looping = loop(deployment, PUSHED)
    event_id = deployment.put("commit.pushed", {"commit": "c1"})
    (launch,) = looping.evaluate()
    assert (launch.origin, launch.trigger, launch.occurrence, launch.event_id) == (Origin.EVENT, "event", event_id, event_id)
    assert launch.variables == {"commit": "c1"}
    assert launch.due_at == deployment.clock.time - 5_000_000
    assert looping.jobs == ["app__report"]
    assert [looping.evaluate() for _ in range(3)] == [[], [], []]
    assert looping.why == "nothing is due"
    assert len(deployment.ticks()) == 1


def test_only_events_that_match_start_the_task(deployment: Deployment) -> None:
    looping = loop(deployment, {**PUSHED, "match": {"branch": "main", "final": True}})
    for branch, final in [("other", True), ("main", False), ("main", 1), ("main", True)]:
        deployment.put("commit.pushed", {"commit": f"{branch}-{final}", "branch": branch, "final": final})
    deployment.put("commit.deleted", {"commit": "x", "branch": "main", "final": True})
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["main-True"]
    assert looping.evaluate() == []


@pytest.mark.parametrize(
    ("wanted", "payload", "result"),
    [
        ({}, {}, True),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
    ],
)
def test_matching(wanted: dict[str, object], payload: dict[str, object], result: bool) -> None:
    assert matches(wanted, payload) is result  # pyright: ignore[reportArgumentType]


def test_events_that_do_not_match_are_not_read_for_ever(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    looping = loop(deployment, {**PUSHED, "match": {"branch": "main"}})
    for _ in range(700):  # more than a page
        deployment.put("commit.pushed", {"branch": "other"})
    deployment.put("commit.pushed", {"commit": "c", "branch": "main"})
    assert len(looping.evaluate()) == 1
    looping.evaluate(after=300)
    read: list[int] = []
    unclaimed = deployment.hub.inbox.unclaimed

    def counted(*arguments: object, **more: object) -> object:
        found = unclaimed(*arguments, **more)  # pyright: ignore[reportArgumentType]
        read.append(len(found))
        return found

    monkeypatch.setattr(deployment.hub.inbox, "unclaimed", counted)
    looping.evaluate()
    assert read == [0]


def test_an_event_that_becomes_visible_late_is_not_lost(deployment: Deployment) -> None:
    """Its transaction was open while later ones were read."""
    looping = loop(deployment, PUSHED)
    looping.evaluate(after=600)
    deployment.put("commit.pushed", {"commit": "later"})
    assert len(looping.evaluate()) == 1
    with deployment.hub.database.transaction() as connection:
        late = deployment.clock.time - 60_000_000
        row = {"workspace": "default", "type": "commit.pushed", "source": "api", "actor": "kim", "received_at": late}
        connection.execute(sa.insert(inbox).values(id=new_id(), payload={"commit": "late"}, **row))
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["late"]


def test_events_of_open_transactions_are_not_lost(
    postgres_template: str, clock: ManualClock, instance: dg.DagsterInstance
) -> None:
    """On PostgreSQL; SQLite has one writer at a time."""
    database = Database(create_postgres_database(postgres_template))
    deployment = Deployment(Hub(database, clock), instance, clock)
    looping = loop(deployment, PUSHED)
    with deployment.hub.database.transaction() as connection:
        deployment.hub.inbox.put(connection, "commit.pushed", {"commit": "slow"})
        deployment.clock.time += 1_000_000
        deployment.put("commit.pushed", {"commit": "quick"})
        assert [launch.variables["commit"] for launch in looping.evaluate()] == ["quick"]
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["slow"]
    database.close()


def test_a_burst_is_taken_in_portions_and_each_event_once(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    for number in range(230):
        deployment.put("commit.pushed", {"commit": str(number)})
        deployment.clock.time += 1_000
    portions = [looping.evaluate() for _ in range(4)]
    assert [len(portion) for portion in portions] == [100, 100, 30, 0]
    assert [launch.variables["commit"] for portion in portions for launch in portion] == [str(n) for n in range(230)]


def test_events_wait_while_too_many_runs_have_not_begun(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_OPEN", 3)
    looping = loop(deployment, PUSHED)
    for number in range(5):
        deployment.put("commit.pushed", {"commit": str(number)})
    first = looping.evaluate()
    assert len(first) == 3
    assert looping.evaluate(after=600) == []
    assert looping.why == "event: 3 ticks wait for their runs"
    deployment.run(looping.task, first[0])
    deployment.run(looping.task, first[1])
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["3", "4"]


def test_an_evaluation_that_was_lost_is_made_up_for(deployment: Deployment) -> None:
    """The daemon dies between our claim and its own note: the same runs are requested again, with the same keys."""
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c1"})
    lost = looping.evaluate(lost=True)
    deployment.put("commit.pushed", {"commit": "c2"})
    again = looping.evaluate()
    assert again[0] == lost[0]
    assert [launch.variables["commit"] for launch in again] == ["c1", "c2"]
    assert looping.evaluate() == []
    assert len(deployment.ticks()) == 2


def test_a_tick_that_has_run_is_not_requested_after_a_lost_cursor(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c1"})
    (launch,) = looping.evaluate()
    assert SensorCursor.read(looping.cursor).requested == (deployment.ticks()[0].id,)
    deployment.run(looping.task, launch)
    assert looping.evaluate() == []
    assert SensorCursor.read(looping.cursor).requested == ()
    looping.cursor = "typed by somebody"
    assert looping.evaluate() == []


def test_an_event_without_what_the_variables_name_fails_its_launch_only(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {})
    deployment.put("commit.pushed", {"commit": "c2"})
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["c2"]
    broken, _ = deployment.ticks()
    assert broken.verdict is Verdict.LAUNCH_FAILED
    assert "event.variables.commit" in (broken.reason or "")


def test_secrets_of_an_event_are_neither_recorded_nor_tagged(deployment: Deployment) -> None:
    redactor.register("hunter2-token")
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "hunter2-token"})
    (launch,) = looping.evaluate()
    assert launch.variables == {}
    assert "hunter2" not in deployment.ticks()[0].model_dump_json()


def test_an_edited_trigger_starts_now_and_the_others_go_on(deployment: Deployment) -> None:
    other = {"kind": "event", "event": "tag.pushed", "name": "tagged"}
    looping = loop(deployment, PUSHED, other)
    deployment.put("commit.pushed", {"commit": "c", "branch": "main"})
    deployment.put("tag.pushed", {})
    looping.task = spec(triggers=[{**PUSHED, "match": {"branch": "main"}}, other])
    assert [launch.trigger for launch in looping.evaluate()] == ["tagged"]
    deployment.put("commit.pushed", {"commit": "d", "branch": "main"})
    assert [launch.variables.get("commit") for launch in looping.evaluate()] == ["d"]


def test_what_happened_while_the_sensor_was_off_is_not_caught_up(deployment: Deployment) -> None:
    looping = SensorLoop(deployment, spec(triggers=[PUSHED]), switched_on=deployment.clock.time / 1_000_000)
    looping.evaluate()
    deployment.clock.time += 60_000_000
    deployment.put("commit.pushed", {"commit": "while off"})
    deployment.clock.time += 1_000_000
    looping.switched_on = deployment.clock.time / 1_000_000
    deployment.put("commit.pushed", {"commit": "just after"})
    assert [launch.variables["commit"] for launch in looping.evaluate()] == ["just after"]


def test_two_tasks_are_started_by_one_event(deployment: Deployment) -> None:
    loops = [loop(deployment, PUSHED), loop(deployment, PUSHED, name="other")]
    deployment.put("commit.pushed", {"commit": "c"})
    assert [[launch.task for launch in looping.evaluate()] for looping in loops] == [["app/report"], ["app/other"]]


def test_triggers_that_are_not_enabled_are_watched_only_if_none_is(deployment: Deployment) -> None:
    off = {"kind": "event", "event": "tag.pushed", "name": "tagged", "enabled": False}
    mixed, alone = loop(deployment, PUSHED, off), loop(deployment, off, name="other")
    deployment.put("tag.pushed", {})
    assert mixed.evaluate() == []
    assert len(alone.evaluate()) == 1


def test_a_rehearsed_event_works_on_its_own_time(deployment: Deployment) -> None:
    looping = loop(deployment, {**PUSHED, "logical_time": "2013-02-08T02:00:00-05:00"})
    deployment.put("commit.pushed", {"commit": "c"})
    (launch,) = looping.evaluate()
    assert launch.logical_at == instant("2013-02-08T07:00Z")


# --- an instant


def test_an_instant_is_due_once_and_also_late(deployment: Deployment) -> None:
    start = deployment.clock.time
    at = {"kind": "at", "at": from_microseconds(start + 60_000_000).isoformat()}
    looping = loop(deployment, at)
    assert (looping.why or "").startswith("at: due at 2026-01-01T00:01:00Z")
    (launch,) = looping.evaluate(after=3_600)  # nobody looked for an hour
    assert (launch.origin, launch.due_at, launch.logical_at) == (Origin.SCHEDULE, start + 60_000_000, start + 60_000_000)
    assert [looping.evaluate() for _ in range(2)] == [[], []]
    deployment.run(looping.task, launch)
    looping.cursor = None
    assert looping.evaluate() == []
    assert len(deployment.ticks()) == 1


def test_an_instant_of_the_past_is_missed_and_written_down(deployment: Deployment) -> None:
    looping = loop(deployment, {"kind": "at", "at": "2020-01-01T00:00:00Z"})
    assert looping.evaluate() == []
    (tick,) = deployment.ticks()
    assert tick.verdict is Verdict.MISSED
    assert tick.reason == "was due before 2026-01-01T00:00:05Z, when this trigger was first watched"


# --- materializations


def materialize(deployment: Deployment, key: str = "sales/orders") -> None:
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey.from_user_string(key)))


def test_each_materialization_starts_the_task_once(deployment: Deployment) -> None:
    materialize(deployment)
    looping = loop(deployment, {"kind": "asset", "asset": "sales/orders"})
    assert looping.evaluate() == []
    materialize(deployment)
    materialize(deployment, "sales/customers")
    materialize(deployment)
    first, second = looping.evaluate()
    assert (first.origin, first.trigger) == (Origin.ASSET, "asset")
    assert int(first.occurrence) < int(second.occurrence)
    assert first.due_at == pytest.approx(datetime.now().timestamp() * 1_000_000, abs=600e6)
    assert [looping.evaluate() for _ in range(2)] == [[], []]
    assert deployment.ticks()[0].inputs["asset"] == "sales/orders"


def test_materializations_of_a_lost_evaluation_are_not_lost(deployment: Deployment) -> None:
    looping = loop(deployment, {"kind": "asset", "asset": "sales/orders"})
    materialize(deployment)
    lost = looping.evaluate(lost=True)
    materialize(deployment)
    assert looping.evaluate()[0] == lost[0]
    assert looping.evaluate() == []
    assert len(deployment.ticks()) == 2


def test_an_asset_that_never_was_is_waited_for(deployment: Deployment) -> None:
    looping = loop(deployment, {"kind": "asset", "asset": f"never/{new_id()}"})
    assert looping.evaluate() == []
    materialize(deployment, str(looping.task.triggers[0].asset))  # pyright: ignore[reportAttributeAccessIssue]
    assert len(looping.evaluate()) == 1


def test_many_materializations_are_taken_in_portions(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_CLAIMS", 3)
    looping = loop(deployment, {"kind": "asset", "asset": "sales/orders"})
    for _ in range(7):
        materialize(deployment)
    portions = [looping.evaluate() for _ in range(4)]
    assert [len(portion) for portion in portions] == [3, 3, 1, 0]
    occurrences = [launch.occurrence for portion in portions for launch in portion]
    assert sorted(set(occurrences), key=int) == occurrences


# --- what a crash leaves


def test_the_reconciler_closes_a_tick_whose_run_never_came(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": "c"})
    looping.evaluate()
    reconciler = reconciler_sensor(hub_of=lambda _: deployment.hub)
    assert (reconciler.name, reconciler.minimum_interval_seconds) == (RECONCILER, 30)
    assert reconciler.default_status is dg.DefaultSensorStatus.RUNNING

    def evaluate() -> str | None:
        with dg.build_sensor_context(deployment.instance) as context:
            return reconciler.evaluate_tick(context).skip_message

    assert evaluate() == "nothing was left open"
    deployment.clock.time += 601_000_000
    (tick,) = deployment.ticks()
    assert evaluate() == f"tick event:{tick.occurrence} of app/report: no run came within 600 s"
    assert deployment.ticks()[0].verdict is Verdict.LAUNCH_FAILED
    assert evaluate() == "nothing was left open"
    assert looping.evaluate() == []


# --- all together


def test_triggers_of_all_kinds_in_one_sensor(deployment: Deployment) -> None:
    at = {"kind": "at", "at": from_microseconds(deployment.clock.time + 8_000_000).isoformat()}
    looping = loop(deployment, PUSHED, at, {"kind": "asset", "asset": "sales/orders"})
    materialize(deployment)
    deployment.put("commit.pushed", {"commit": "c"})
    launches = looping.evaluate()
    assert sorted(launch.trigger for launch in launches) == ["asset", "at", "event"]
    runtime = Scripted()
    for launch in launches:
        deployment.run(looping.task, launch, runtime)
    assert runtime.calls == 3
    assert all(tick.verdict is Verdict.RAN for tick in deployment.ticks())


def test_a_launch_survives_the_tags_of_a_run(deployment: Deployment) -> None:
    looping = loop(deployment, PUSHED)
    deployment.put("commit.pushed", {"commit": 'umlauts äöü, "quotes"\nand lines'})
    (launch,) = looping.evaluate()
    assert Launch.from_tags(launch.tags()) == launch
