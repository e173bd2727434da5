"""A task that comes after another: row 9 (timing with an offset) and row 68 (who repairs whom), with call counters."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.execution import RunRef, Status, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.burst_settings import burst_job_name
from agent_pipelines.engine.gateway import StoredRun
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.reconciler import Reconciler
from agent_pipelines.engine.tick import REPAIR, Tick
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.components.triggering import BoardLoop, Deployment, Scripted, SensorLoop, instant, spec
from agent_pipelines_tests.conftest import create_postgres_database

REPORT = spec("report", triggers=[{"kind": "cron", "cron": "0 6 * * *"}], retry={"resumes": 0})


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


class Night:
    """The night of a report at 06:00 and an e-mail at 06:15, minute by minute."""

    def __init__(self, deployment: Deployment, *, lossy: bool, **after: object) -> None:
        self.deployment = deployment
        self.lossy = lossy
        self.report = Scripted()
        self.email = Scripted()
        trigger = {"kind": "after", "task": "report", "offset": "15m", **after}
        self.mail_task = spec("email", triggers=[trigger])
        deployment.clock.time = instant("2026-01-02T05:00Z")
        self.loop = deployment.watch(deployment, self.mail_task)
        self.loop.evaluate()

    @property
    def time(self) -> str:
        return isoformat(self.deployment.clock.time)[11:16]

    def at(self, time: str) -> None:
        self.deployment.clock.time = instant(f"2026-01-02T{time}Z")

    def due(self, time: str = "06:00", task: TaskSpec = REPORT) -> Launch:
        """The report's schedule is looked at."""
        return self.deployment.launch(task, f"2026-01-02T{time}Z")

    def work(self, launch: Launch, *, run_id: str | None = None, job: str | None = None) -> None:
        """The run of a launch is executed."""
        task, runtime = (REPORT, self.report) if launch.task == "app/report" else (self.mail_task, self.email)
        self.deployment.run(task, launch, runtime, run_id=run_id, job=job)

    def look(self) -> list[Launch]:
        """The e-mail's sensor is evaluated; in a lossy night each evaluation is first lost, and then made again."""
        if self.lossy:
            lost = self.loop.evaluate(after=0, lost=True)
            again = self.loop.evaluate(after=0)
            assert again == lost
            return again
        return self.loop.evaluate(after=0)

    def look_and_work(self) -> list[Launch]:
        launches = self.look()
        for launch in launches:
            self.work(launch)
        return launches

    def until(self, time: str, every: float = 300) -> list[tuple[str, Launch]]:
        """Everything that is launched until a time, and done at once."""
        found: list[tuple[str, Launch]] = []
        while self.time < time:
            found += [(self.time, launch) for launch in self.look_and_work()]
            self.deployment.clock.time += round(every * 1_000_000)
        return found

    def verdicts(self, task: str = "email") -> list[tuple[str, str, str | None]]:
        return [(tick.trigger, str(tick.verdict), tick.reason) for tick in self.deployment.ticks(task)]

    def statuses(self, task: str) -> list[Status]:
        with self.deployment.hub.database.reading() as connection:
            stored = self.deployment.hub.executions.list(connection, application="app", task=task)
            return [each.status for each in stored][::-1]


@pytest.fixture(params=["sqlite", "sqlite-lossy", "postgresql-lossy", "sqlite-board", "postgresql-board-lossy"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lossy(way: str) -> bool:
    return way.endswith("lossy")


@pytest.fixture
def deployment(
    way: str, request: pytest.FixtureRequest, clock: ManualClock, instance: dg.DagsterInstance, tmp_path: Path
) -> Iterator[Deployment]:
    if way.startswith("sqlite"):
        database = Database(f"sqlite:///{tmp_path / 'ours.db'}")
        migrate(database)
    else:
        database = Database(create_postgres_database(request.getfixturevalue("postgres_template")))
    yield Deployment(Hub(database, clock), instance, clock, BoardLoop if "board" in way else SensorLoop)
    database.close()


@pytest.fixture
def night(deployment: Deployment, lossy: bool) -> Night:
    return Night(deployment, lossy=lossy)


# --- row 9: at 06:15, but only after the 06:00 report


def test_with_an_early_report_the_mail_starts_at_its_time(night: Night) -> None:
    night.work(night.due())
    ((when, launch),) = night.until("07:00")
    assert when == "06:15"
    assert (launch.task, launch.trigger, launch.origin) == ("app/email", "after", Origin.AFTER)
    assert launch.due_at == launch.logical_at == instant("2026-01-02T06:15Z")
    assert launch.occurrence == night.deployment.ticks("report")[0].id
    assert (night.report.calls, night.email.calls) == (1, 1)
    assert night.verdicts() == [("after", "ran", None)]


def test_with_a_late_report_the_mail_waits(night: Night) -> None:
    launch = night.due()
    assert night.until("06:40") == []
    assert night.loop.why == "after: app/report of 2026-01-02T06:00:00Z: upstream has not begun"
    night.work(launch)
    ((when, mail),) = night.until("07:00")
    assert when == "06:40"
    assert mail.due_at == instant("2026-01-02T06:15Z")
    assert (night.report.calls, night.email.calls) == (1, 1)


def test_each_report_has_its_mail(night: Night) -> None:
    hourly = spec("report", triggers=[{"kind": "interval", "every": "1h"}])
    for hour in ("06", "07", "08"):
        night.work(night.due(f"{hour}:00", hourly))
        assert [when for when, _ in night.until(f"{hour}:55")] == [f"{hour}:15"]
    assert (night.report.calls, night.email.calls) == (3, 3)


def test_a_report_on_demand_has_its_mail_too(night: Night) -> None:
    night.at("09:00")
    now = night.deployment.clock.time
    run_id = new_id()
    launch = Launch(
        task="app/report", trigger="on_demand", origin=Origin.ON_DEMAND, occurrence=run_id, due_at=now, logical_at=now
    )
    night.work(launch, run_id=run_id)
    assert [when for when, _ in night.until("10:00")] == ["09:15"]


def test_reports_before_the_trigger_was_first_watched_are_nothing_to_it(deployment: Deployment) -> None:
    deployment.run(REPORT, deployment.launch(REPORT, "2026-01-02T06:00Z"))
    night = Night(deployment, lossy=False)
    night.at("06:01")
    night.loop.cursor = None  # first watched at 06:01
    assert night.until("08:00") == []
    assert night.verdicts() == []


# --- row 68: if the report fails, the mail has it repaired; if the mail fails, the report is not run again


def test_a_failed_report_is_repaired_once_and_then_the_mail_runs(night: Night) -> None:
    night.report.works = [False, True]
    first = night.due()
    night.work(first)
    assert night.statuses("report") == [Status.FAILED]
    (repair,) = night.look()
    assert night.loop.jobs == ["app__report"]
    assert (repair.task, repair.resume) == ("app/report", True)
    assert (repair.trigger, repair.occurrence, repair.due_at) == (first.trigger, first.occurrence, first.due_at)
    assert night.look() == []
    night.work(repair)
    assert [when for when, _ in night.until("07:00")] == ["06:15"]
    assert (night.report.calls, night.email.calls) == (2, 1)
    assert night.statuses("report") == [Status.SUCCEEDED]  # the same execution, resumed
    assert night.verdicts("report") == [("cron", "ran", None), (REPAIR, "ran", None)]
    assert night.verdicts() == [("after", "ran", None)]


def test_a_report_that_fails_again_is_given_up_and_the_mail_skipped(night: Night) -> None:
    night.report.works = [False, False, True]
    night.work(night.due())
    launches = night.until("07:00")
    assert [launch.task for _, launch in launches] == ["app/report"]
    assert (night.report.calls, night.email.calls) == (2, 0)
    assert night.verdicts() == [("after", "skipped", "upstream failed: the script says no")]
    night.at("12:00")
    assert night.until("13:00") == []


def test_a_mail_that_may_runs_without_its_report(deployment: Deployment, lossy: bool) -> None:
    night = Night(deployment, lossy=lossy, if_upstream_fails="run")
    night.report.works = [False, False]
    night.work(night.due())
    assert [(when, launch.task) for when, launch in night.until("07:00")] == [("06:00", "app/report"), ("06:15", "app/email")]
    assert (night.report.calls, night.email.calls) == (2, 1)
    assert night.deployment.ticks("email")[0].inputs["because"] == (
        "upstream failed, which is no reason not to run: the script says no"
    )


def test_a_failed_mail_does_not_run_the_report_again(night: Night) -> None:
    night.email.works = [False] * 10
    night.work(night.due())
    assert len(night.until("07:00")) == 1
    night.at("12:00")
    assert night.until("13:00") == []
    assert (night.report.calls, night.email.calls) == (1, 1)
    assert night.statuses("email") == [Status.FAILED]
    assert night.verdicts("report") == [("cron", "ran", None)]


def test_without_repair_a_failed_report_is_left_as_it_is(deployment: Deployment, lossy: bool) -> None:
    night = Night(deployment, lossy=lossy, repair=False)
    night.report.works = [False]
    night.work(night.due())
    assert night.until("07:00") == []
    assert (night.report.calls, night.email.calls) == (1, 0)
    assert night.verdicts() == [("after", "skipped", "upstream failed: the script says no")]


def test_a_report_whose_launch_failed_is_launched_once_more(night: Night) -> None:
    launch = night.due()
    night.deployment.decide(launch, Verdict.LAUNCH_FAILED, "no run came within 600 s")
    launches = night.until("07:00")
    assert [(when, each.task, each.resume) for when, each in launches] == [
        ("06:00", "app/report", True),
        ("06:15", "app/email", False),
    ]
    assert (night.report.calls, night.email.calls) == (1, 1)
    assert [tick.verdict for tick in night.deployment.ticks("report")] == [Verdict.LAUNCH_FAILED, Verdict.RAN]


def test_a_report_that_cannot_be_launched_at_all_is_given_up(night: Night) -> None:
    night.deployment.decide(night.due(), Verdict.LAUNCH_FAILED, "no run came within 600 s")
    assert len(night.look()) == 1  # and its run never comes
    _reconcile_after(night, minutes=11)
    assert night.until("07:00") == []
    assert night.verdicts() == [("after", "skipped", "upstream failed: launch failed: no run came within 600 s")]
    assert [tick.verdict for tick in night.deployment.ticks("report")] == [Verdict.LAUNCH_FAILED] * 2


def test_a_repair_that_never_came_is_given_up(night: Night) -> None:
    night.report.works = [False]
    night.work(night.due())
    assert len(night.look()) == 1
    assert night.until("06:05") == []
    assert night.loop.why == "after: app/report of 2026-01-02T06:00:00Z: upstream is about to be repaired"
    _reconcile_after(night, minutes=11)
    assert night.until("07:00") == []
    assert night.verdicts() == [("after", "skipped", "upstream failed: the script says no")]
    assert (night.report.calls, night.email.calls) == (1, 0)


def test_a_repair_that_dies_is_given_up(night: Night) -> None:
    """Its process is lost while the execution runs: the reconciler closes the execution."""
    night.report.works = [False]
    night.work(night.due())
    (repair,) = night.look()
    _resume_and_die(night, repair)
    assert night.until("06:20") == []
    assert night.loop.why == "after: app/report of 2026-01-02T06:00:00Z: upstream is running"
    _reconcile_after(night, minutes=11)
    assert night.until("07:00") == []
    ((_, verdict, reason),) = night.verdicts()
    assert verdict == "skipped"
    assert "its process was lost" in (reason or "")
    assert night.verdicts("report")[1] == (REPAIR, "ran", None)


def test_two_followers_share_one_repair(deployment: Deployment) -> None:
    night = Night(deployment, lossy=False)
    other = deployment.watch(deployment, spec("archive", triggers=[{"kind": "after", "task": "app/report", "offset": "30m"}]))
    other.evaluate(after=0)
    night.report.works = [False, True]
    night.work(night.due())
    (repair,) = night.look()
    assert other.evaluate(after=0) == []
    night.work(repair)
    assert [when for when, _ in night.until("06:29")] == ["06:15"]
    night.at("06:30")
    assert [launch.task for launch in other.evaluate(after=0)] == ["app/archive"]
    assert night.report.calls == 2


def test_somebody_may_help_until_the_mail_is_due(night: Night) -> None:
    night.report.works = [False, False, True]
    first = night.due()
    night.work(first)
    assert len(night.until("06:10")) == 1  # the repair, in vain
    night.work(first.model_copy(update={"resume": True}))  # re-executed from failure, by hand
    assert [when for when, _ in night.until("07:00")] == ["06:15"]
    assert (night.report.calls, night.email.calls) == (3, 1)


# --- verdicts of the upstream


def test_a_skipped_report_has_no_mail(night: Night) -> None:
    night.deployment.decide(night.due(), Verdict.SKIPPED, "nothing new")
    assert night.until("07:00") == []
    assert night.verdicts() == [("after", "skipped", "upstream skipped: nothing new")]


def test_a_missed_report_has_no_mail(night: Night) -> None:
    night.deployment.decide(night.due(), Verdict.MISSED, "no scheduler")
    assert night.until("07:00") == []
    assert night.verdicts() == [("after", "skipped", "upstream missed: no scheduler")]


def test_a_deduplicated_report_is_the_one_that_it_was_deduplicated_into(night: Night) -> None:
    night.report.works = [False, True]
    night.work(night.due())
    (ran,) = night.deployment.ticks("report")
    now = night.deployment.clock.time
    with night.deployment.hub.database.transaction() as connection:
        ticks = night.deployment.hub.ticks
        ticks.claim(connection, REPORT.key, "event", "e-1", origin=Origin.EVENT, due_at=now)
        ticks.decide(
            connection, REPORT.key, "event", "e-1", Verdict.DEDUPLICATED, run_id="r", execution_id=ran.execution_id, reason="same"
        )
    launches = night.until("07:00")
    assert [(when, each.task) for when, each in launches] == [
        ("06:00", "app/report"),  # one repair for both
        ("06:15", "app/email"),
        ("06:15", "app/email"),
    ]
    assert (night.report.calls, night.email.calls) == (2, 2)


def test_a_report_that_takes_too_long_has_no_mail(deployment: Deployment, lossy: bool) -> None:
    night = Night(deployment, lossy=lossy, wait_at_most="2h")
    launch = night.due()
    assert night.until("08:16", every=600) == []
    assert night.verdicts() == []
    assert night.until("08:40", every=600) == []
    ((_, verdict, reason),) = night.verdicts()
    assert (verdict, reason) == ("skipped", "upstream not final by 2026-01-02T08:15:00Z: upstream has not begun")
    night.work(launch)
    assert night.until("09:30", every=600) == []
    assert night.email.calls == 0


def test_a_report_that_began_late_is_waited_for_from_then_on(deployment: Deployment, lossy: bool) -> None:
    night = Night(deployment, lossy=lossy, wait_at_most="2h")
    launch = night.deployment.launch(REPORT, "2026-01-02T06:00Z", late=5 * 3_600)
    assert night.time == "11:00"
    assert night.until("11:30") == []
    night.work(launch)
    assert [when for when, _ in night.until("12:00")] == ["11:30"]


def test_a_mail_that_ran_together_with_its_report_is_not_sent_again(night: Night) -> None:
    """Somebody materialized both in one Dagster run."""
    night.at("09:00")
    now, run_id = night.deployment.clock.time, new_id()
    for task in ("report", "email"):
        values = {"trigger": "on_demand", "origin": Origin.ON_DEMAND, "occurrence": run_id, "due_at": now, "logical_at": now}
        night.work(Launch(task=f"app/{task}", **values), run_id=run_id)
    assert night.until("10:00") == []
    assert night.verdicts() == [
        ("on_demand", "ran", None),
        ("after", "skipped", f"ran together with its upstream, in run {run_id}"),
    ]


def test_each_report_of_a_burst_has_its_mail_in_the_same_burst(night: Night) -> None:
    """A burst is one Dagster run for many ticks of both."""
    hourly = spec("report", triggers=[{"kind": "cron", "cron": "0 * * * *"}])
    run_id, job = new_id(), burst_job_name("default")
    for hour in ("06", "07", "08"):
        night.work(night.due(f"{hour}:00", task=hourly), run_id=run_id, job=job)
        night.at(f"{hour}:15")
        (mail,) = night.look()
        night.work(mail, run_id=run_id, job=job)
    assert night.email.calls == 3
    assert [verdict for trigger, verdict, _ in night.verdicts() if trigger == "after"] == ["ran"] * 3


# --- rehearsals


def test_a_rehearsed_report_has_its_mail_at_once(night: Night) -> None:
    rehearsed = spec("report", triggers=[{"kind": "cron", "cron": "0 6 * * *", "logical_time": "2013-02-08T06:00:00Z"}])
    launch = night.due(task=rehearsed)
    assert night.look() == []
    night.work(launch)
    finished_at = night.deployment.clock.time
    ((when, mail),) = night.until("06:10")
    assert when == "06:00"
    assert mail.logical_at == instant("2013-02-08T06:15Z")
    assert mail.due_at == finished_at


def test_a_failed_rehearsal_is_repaired_and_given_up_at_once(night: Night) -> None:
    rehearsed = spec("report", triggers=[{"kind": "cron", "cron": "0 6 * * *", "logical_time": "2013-02-08T06:00:00Z"}])
    night.report.works = [False, False]
    night.work(night.due(task=rehearsed))
    assert [launch.task for _, launch in night.until("06:10")] == ["app/report"]
    assert night.verdicts() == [("after", "skipped", "upstream failed: the script says no")]


# --- what is remembered


def test_old_ticks_are_not_read_for_ever(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(deployment, lossy=False)
    hourly = spec("report", triggers=[{"kind": "interval", "every": "1h"}])
    for hour in ("06", "07", "08"):
        night.work(night.due(f"{hour}:00", hourly))
        night.until(f"{hour}:55")
    asked: list[int] = []
    unfollowed = deployment.hub.ticks.unfollowed

    def watched(*arguments: object, **more: object) -> object:
        asked.append(more["after"])  # pyright: ignore[reportArgumentType]
        return unfollowed(*arguments, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(deployment.hub.ticks, "unfollowed", watched)
    waiting = night.due("09:00", hourly)
    night.until("09:30")
    (seq,) = [tick.seq for tick in deployment.ticks("report") if tick.occurrence == waiting.occurrence]
    assert seq - 2 <= asked[-1] < seq  # everything before the one that is waited for


def test_nothing_changes_when_a_decided_mail_is_looked_at_from_the_beginning(night: Night) -> None:
    night.work(night.due())
    assert len(night.until("06:30")) == 1
    cursor = night.loop.cursor
    night.until("07:00")
    night.loop.cursor = cursor  # an older cursor comes back, as after a restored backup
    assert night.until("08:00") == []
    assert night.email.calls == 1


# --- helpers


class _Runs:
    """Dagster's answers: it knows no run of a tick, and every run it is asked for has ended."""

    def runs_of_tick(self, tick: Tick) -> list[StoredRun]:
        return []

    def run(self, run_id: str) -> StoredRun | None:
        return StoredRun(
            run_id=run_id,
            job="j",
            status="FAILURE",
            created_at=0,
            started_at=None,
            finished_at=None,
            parent_run_id=None,
            tags={},
        )


def _reconcile_after(night: Night, minutes: float) -> None:
    hub = night.deployment.hub
    night.deployment.clock.time += round(minutes * 60_000_000)
    Reconciler(hub.database, hub.ticks, hub.daemons, hub.executions, _Runs(), hub.clock, hub.continuations).reconcile()


def _resume_and_die(night: Night, repair: Launch) -> None:
    """Admit the repair's execution and do nothing more, as a process that is killed."""
    invocation = Invocation(
        application="app",
        task="report",
        spec_hash=REPORT.spec_hash,
        trigger=repair.trigger,
        origin=repair.origin,
        occurrence=repair.occurrence,
        due_at=repair.due_at,
        logical_at=repair.logical_at,
    )
    hub = night.deployment.hub
    with hub.database.transaction() as connection:
        admission = hub.executions.admit(
            connection, invocation, RunRef(run_id=new_id(), resumes=True), dedupe_key=None, trace_id="t"
        )
        assert admission.outcome == "resumed"
