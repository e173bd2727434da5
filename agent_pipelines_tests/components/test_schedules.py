from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from agent_pipelines.components.schedules import schedules_for
from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.components.triggering import Deployment, instant, spec

NIGHTLY = {"kind": "cron", "cron": "0 6 * * *", "name": "nightly"}
HOURLY = {"kind": "interval", "every": "1h"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture
def clean(instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    yield instance
    assert instance.schedule_storage is not None
    instance.schedule_storage.wipe()


@pytest.fixture
def deployment(database: Database, clock: ManualClock, clean: dg.DagsterInstance) -> Deployment:
    return Deployment(Hub(database, clock), clean, clock)


@pytest.fixture
def on_sqlite(tmp_path: Path, clock: ManualClock, clean: dg.DagsterInstance) -> Iterator[Deployment]:
    database = Database(f"sqlite:///{tmp_path / 'ours.db'}")
    migrate(database)
    yield Deployment(Hub(database, clock), clean, clock)
    database.close()


def test_each_trigger_of_time_that_repeats_is_a_schedule() -> None:
    task = spec(
        triggers=[
            {
                "kind": "cron",
                "cron": "0 6 * * mon-fri",
                "timezone": "Europe/Berlin",
                "name": "nightly",
                "calendar": {"country": "DE"},
            },
            {"kind": "interval", "every": "90m", "enabled": False},
            {"kind": "interval", "every": "7m", "name": "odd"},
            {"kind": "interval", "every": "5s", "name": "quick"},
            {"kind": "event", "event": "e"},
            {"kind": "at", "at": "2027-01-01T00:00:00Z"},
        ]
    )
    nightly, interval, odd, quick = schedules_for(task, "the_job")
    assert (nightly.name, nightly.job_name) == ("app__report__nightly", "the_job")
    assert (nightly.cron_schedule, nightly.execution_timezone) == ("0 6 * * mon-fri", "Europe/Berlin")
    assert nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    assert nightly.description == "Starts app/report: `0 6 * * mon-fri` in Europe/Berlin on business days of DE."
    assert interval.name == "app__report__interval"
    assert interval.cron_schedule == ("0 */3 * * *", "30 1,4,7,10,13,16,19,22 * * *")
    assert interval.default_status is dg.DefaultScheduleStatus.STOPPED
    assert odd.cron_schedule == "* * * * *"
    assert "Dagster's own scheduler starts up to a minute late" in (odd.description or "")
    assert "Due every 5s, but an attempt may take up to 5m: with `overlap: skip` ticks are skipped" in (quick.description or "")


def test_a_look_claims_the_tick_and_requests_a_run(deployment: Deployment) -> None:
    task = spec(triggers=[{**NIGHTLY, "variables": {"day": "{{ logical_time[:10] }}"}}])
    launch = deployment.launch(task, "2026-01-02T06:00Z")
    at = instant("2026-01-02T06:00Z")
    assert (launch.task, launch.trigger, launch.origin) == ("app/report", "nightly", Origin.SCHEDULE)
    assert (launch.occurrence, launch.due_at, launch.logical_at) == (str(at), at, at)
    assert launch.variables == {"day": "2026-01-02"}
    (tick,) = deployment.ticks()
    assert (tick.occurrence, tick.verdict, tick.due_at) == (str(at), None, at)
    assert tick.claimed_at == at + 10_000
    assert tick.trigger_revision is not None


def test_looking_again_at_the_same_instant_asks_for_the_same_run(deployment: Deployment) -> None:
    task = spec(triggers=[NIGHTLY])
    first = deployment.launch(task, "2026-01-02T06:00Z")
    assert deployment.launch(task, "2026-01-02T06:00Z", late=300) == first
    assert len(deployment.ticks()) == 1


def test_a_decided_tick_is_skipped_with_its_verdict(deployment: Deployment) -> None:
    task = spec(triggers=[NIGHTLY])
    deployment.look(task, "2026-01-02T06:00Z")
    with deployment.hub.database.transaction() as connection:
        occurrence = str(instant("2026-01-02T06:00Z"))
        deployment.hub.ticks.decide(connection, task.key, "nightly", occurrence, Verdict.SKIPPED, reason="nothing to do")
    assert deployment.skip(task, "2026-01-02T06:00Z") == "the tick of 2026-01-02T06:00:00Z is decided: skipped: nothing to do"


def test_a_rehearsal_works_on_its_own_time(deployment: Deployment) -> None:
    task = spec(triggers=[{**NIGHTLY, "logical_time": "2013-02-08T02:00:00-05:00", "variables": {"of": "{{ logical_time }}"}}])
    launch = deployment.launch(task, "2026-01-02T06:00Z")
    assert (launch.due_at, launch.logical_at) == (instant("2026-01-02T06:00Z"), instant("2013-02-08T07:00Z"))
    assert launch.variables == {"of": "2013-02-08T07:00:00Z"}


def test_variables_that_cannot_be_rendered_fail_the_launch_and_not_the_schedule(deployment: Deployment) -> None:
    task = spec(triggers=[{**NIGHTLY, "variables": {"x": "{{ 1 / 0 }}"}}])
    why = deployment.skip(task, "2026-01-02T06:00Z")
    assert "launch_failed: triggers.nightly.variables.x" in why
    (tick,) = deployment.ticks()
    assert tick.verdict is Verdict.LAUNCH_FAILED
    fixed = spec(triggers=[NIGHTLY])
    deployment.launch(fixed, "2026-01-03T06:00Z")


def test_a_failed_cycle_stops_no_later_cycle(deployment: Deployment) -> None:
    task = spec(triggers=[HOURLY])
    for hour in (1, 2, 3):
        launch = deployment.launch(task, f"2026-01-02T0{hour}:00Z")
        assert launch.due_at == instant(f"2026-01-02T0{hour}:00Z")
        if hour == 1:
            with deployment.hub.database.transaction() as connection:
                deployment.hub.ticks.decide(
                    connection, task.key, "interval", launch.occurrence, Verdict.LAUNCH_FAILED, reason="crashed"
                )
    assert [tick.verdict for tick in deployment.ticks()] == [Verdict.LAUNCH_FAILED, None, None]


def test_instants_that_nobody_looked_at_are_missed_and_the_last_one_runs(deployment: Deployment) -> None:
    task = spec(triggers=[HOURLY])
    deployment.switch_on("app__report__interval", "2026-01-02T00:30Z", "0 * * * *")
    deployment.look(task, "2026-01-02T01:00Z")
    deployment.look(task, "2026-01-02T02:00Z")
    launch = deployment.launch(task, "2026-01-02T06:00Z", late=1_000)
    assert launch.due_at == instant("2026-01-02T06:00Z")
    ticks = deployment.ticks()
    assert [isoformat(tick.due_at)[11:13] for tick in ticks] == ["01", "02", "03", "04", "05", "06"]
    assert [tick.verdict for tick in ticks] == [None, None, *[Verdict.MISSED] * 3, None]
    assert ticks[2].reason == "no scheduler looked at its time; the next one that ran is due at 2026-01-02T06:00:00Z"


def test_a_crash_while_missed_ticks_are_written_leaves_all_or_none(on_sqlite: Deployment) -> None:
    task = spec(triggers=[HOURLY])
    on_sqlite.switch_on("app__report__interval", "2026-01-02T00:30Z", "0 * * * *")
    on_sqlite.look(task, "2026-01-02T01:00Z")
    for _ in range(3):
        on_sqlite.launch(task, "2026-01-02T06:00Z")
    assert len(on_sqlite.ticks()) == 6


def test_what_passed_while_the_schedule_was_off_is_not_missed(on_sqlite: Deployment) -> None:
    task = spec(triggers=[HOURLY])
    on_sqlite.look(task, "2026-01-02T01:00Z")
    on_sqlite.switch_on("app__report__interval", "2026-01-02T04:30Z", "0 * * * *")
    on_sqlite.look(task, "2026-01-02T06:00Z")
    assert [(isoformat(tick.due_at)[11:13], tick.verdict) for tick in on_sqlite.ticks()] == [
        ("01", None),
        ("05", Verdict.MISSED),
        ("06", None),
    ]


def test_the_first_look_of_all_makes_nothing_missed_before_it_was_switched_on(on_sqlite: Deployment) -> None:
    task = spec(triggers=[HOURLY])
    on_sqlite.launch(task, "2026-01-02T01:00Z")  # Dagster knows no switch
    on_sqlite.switch_on("app__other__interval", "2026-01-01T22:30Z", "0 * * * *")
    other = spec("other", triggers=[HOURLY])
    on_sqlite.look(other, "2026-01-02T01:00Z")
    assert [tick.verdict for tick in on_sqlite.ticks("other")] == [Verdict.MISSED, Verdict.MISSED, None]


def test_an_edit_makes_nothing_of_the_past_due(on_sqlite: Deployment) -> None:
    on_sqlite.switch_on("app__report__nightly", "2026-01-02T00:30Z", "0 6 * * *")
    on_sqlite.look(spec(triggers=[NIGHTLY]), "2026-01-02T06:00Z")
    edited = spec(triggers=[{**NIGHTLY, "cron": "0 * * * *"}])
    # Dagster may look at an instant shortly before the edit, when its daemon was restarted.
    why = on_sqlite.skip(edited, "2026-01-02T10:00Z", late=1_800)
    assert why == (
        "the tick of 2026-01-02T10:00:00Z is decided: missed: was due when no scheduler looked, and this trigger was edited "
        "since its last tick"
    )
    on_sqlite.launch(edited, "2026-01-02T11:00Z")
    assert [isoformat(tick.due_at)[11:13] for tick in on_sqlite.ticks()] == ["06", "10", "11"]


def test_other_variables_are_no_edit_of_the_time(on_sqlite: Deployment) -> None:
    on_sqlite.switch_on("app__report__interval", "2026-01-02T00:30Z", "0 * * * *")
    on_sqlite.look(spec(triggers=[HOURLY]), "2026-01-02T01:00Z")
    launch = on_sqlite.launch(spec(triggers=[{**HOURLY, "variables": {"a": 1}}]), "2026-01-02T03:00Z", late=1_800)
    assert launch.variables == {"a": 1}
    assert [tick.verdict for tick in on_sqlite.ticks()] == [None, Verdict.MISSED, None]


def test_an_odd_interval_is_looked_at_each_minute(on_sqlite: Deployment) -> None:
    """Every 7 min 30 s: due at 05:00:00, 05:07:30, 05:15:00."""
    task = spec(triggers=[{"kind": "interval", "every": "7m 30s"}])
    on_sqlite.switch_on("app__report__interval", "2026-01-02T04:59:00Z", "* * * * *")
    start = instant("2026-01-02T05:00Z")
    answers = [on_sqlite.look(task, start + minute * 60_000_000) for minute in range(16)]
    launched = {minute: launches[0] for minute, launches in enumerate(answers) if not isinstance(launches, str)}
    assert {minute: (launch.due_at - start) / 1_000_000 for minute, launch in launched.items()} == {0: 0, 8: 450, 15: 900}
    assert answers[1] == "the run of the tick of 2026-01-02T05:00:00Z is requested already"
    assert len(on_sqlite.ticks()) == 3
    assert on_sqlite.launch(task, start + 15 * 60_000_000) == launched[15]
    assert on_sqlite.launch(task, start + 8 * 60_000_000) == launched[8]  # a retry of that minute, after a crash


def test_an_odd_interval_catches_up_with_the_last_instant_only(on_sqlite: Deployment) -> None:
    task = spec(triggers=[{"kind": "interval", "every": "7m"}])
    on_sqlite.switch_on("app__report__interval", "2026-01-02T04:59:00Z", "* * * * *")
    on_sqlite.launch(task, "2026-01-02T05:03Z")
    launch = on_sqlite.launch(task, "2026-01-02T05:25Z")
    assert isoformat(launch.due_at) == "2026-01-02T05:24:00Z"
    assert [tick.verdict for tick in on_sqlite.ticks()] == [None, Verdict.MISSED, Verdict.MISSED, None]


def test_an_odd_interval_does_not_start_with_the_past(on_sqlite: Deployment) -> None:
    task = spec(triggers=[{"kind": "interval", "every": "7m"}])
    on_sqlite.switch_on("app__report__interval", "2026-01-02T05:03:30Z", "* * * * *")
    for minute in (4, 6, 9):
        assert on_sqlite.skip(task, f"2026-01-02T05:0{minute}Z").startswith("not due at")
    assert on_sqlite.skip(task, "2026-01-02T05:09Z") == "not due at 2026-01-02T05:09:00Z; next at 2026-01-02T05:10:00Z"
    on_sqlite.launch(task, "2026-01-02T05:10Z")
    assert len(on_sqlite.ticks()) == 1


def test_where_the_clock_is_set_back_the_first_of_two_times_is_due(on_sqlite: Deployment) -> None:
    """Dagster looks at the second; what is due is decided by us."""
    task = spec(triggers=[{"kind": "cron", "cron": "30 1 * * *", "timezone": "America/New_York"}])
    on_sqlite.look(task, "2026-10-31T01:30-04:00")
    launch = on_sqlite.launch(task, "2026-11-01T01:30-05:00")
    assert launch.due_at == instant("2026-11-01T01:30-04:00")
    assert on_sqlite.launch(task, "2026-11-01T01:30-05:00") == launch
    on_sqlite.launch(task, "2026-11-02T01:30-05:00")
    assert [tick.verdict for tick in on_sqlite.ticks()] == [None, None, None]


def test_days_that_dagster_reads_otherwise_are_skipped(on_sqlite: Deployment) -> None:
    """`*/2` and `fri`: cron asks for both, Dagster for one of them."""
    task = spec(triggers=[{"kind": "cron", "cron": "0 9 */2 * fri"}])
    on_sqlite.switch_on("app__report__cron", "2026-01-01T00:00Z", "0 9 */2 * fri")
    assert on_sqlite.skip(task, "2026-01-07T09:00Z") == "not due at 2026-01-07T09:00:00Z; next at 2026-01-09T09:00:00Z"
    on_sqlite.launch(task, "2026-01-09T09:00Z")
    assert on_sqlite.skip(task, "2026-01-11T09:00Z").startswith("the run of the tick of 2026-01-09")
    assert len(on_sqlite.ticks()) == 1


def test_trying_out_a_schedule_in_the_ui_leaves_no_trace(on_sqlite: Deployment) -> None:
    task = spec(triggers=[NIGHTLY])
    (schedule,) = schedules_for(task, "job", hub_of=lambda _: on_sqlite.hub)
    on_sqlite.clock.time = instant("2026-01-01T12:00Z")
    context = dg.build_schedule_context(on_sqlite.instance, datetime.fromisoformat("2026-01-02T06:00+00:00"))
    assert len(schedule.evaluate_tick(context).run_requests or ()) == 1
    assert on_sqlite.ticks() == []
    on_sqlite.launch(task, "2026-01-02T06:00Z")


def test_trying_out_an_instant_of_the_past_leaves_the_verdict_to_a_queued_run(on_sqlite: Deployment) -> None:
    task = spec(triggers=[{"kind": "cron", "cron": "0 * * * *"}])
    queued = on_sqlite.launch(task, "2026-01-02T06:00Z")
    on_sqlite.launch(task, "2026-01-02T02:00Z", late=4 * 3_600 + 60)  # in the UI, at 06:01
    on_sqlite.launch(task, "2026-01-02T07:00Z")
    on_sqlite.run(task, queued)
    verdicts = {tick.occurrence: tick.verdict for tick in on_sqlite.ticks()}
    assert verdicts[queued.occurrence] == Verdict.RAN


@pytest.mark.parametrize("name", ["repair", "triggers"])
def test_names_that_are_kept_are_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"triggers\.{name}\.name.*is kept for .*Choose another"):
        schedules_for(spec(triggers=[{**NIGHTLY, "name": name}]), "job")


@pytest.mark.parametrize(
    "trigger", [{"kind": "interval", "every": "5s"}, {"kind": "cron", "cron": "*/5 * * * * *", "seconds": "first"}]
)
def test_dagsters_own_scheduler_starts_nothing_that_has_seconds(on_sqlite: Deployment, trigger: dict[str, Any]) -> None:
    task = spec(triggers=[trigger])
    assert "needs `agent-pipelines up`" in str(on_sqlite.look(task, on_sqlite.clock.now() // 60_000_000 * 60_000_000))
    assert on_sqlite.ticks() == []


def test_dagsters_own_scheduler_starts_nothing_while_our_daemon_keeps_the_time(on_sqlite: Deployment) -> None:
    task = spec(triggers=[{"kind": "cron", "cron": "* * * * *"}])
    with on_sqlite.hub.database.transaction() as connection:
        on_sqlite.hub.daemons.beat(connection, "d", "leader")
    at = on_sqlite.clock.now() // 60_000_000 * 60_000_000
    assert "a daemon of agent-pipelines keeps the time" in str(on_sqlite.look(task, at))
    on_sqlite.clock.time += 60_000_000
    assert not isinstance(on_sqlite.look(task, at + 60_000_000), str)
