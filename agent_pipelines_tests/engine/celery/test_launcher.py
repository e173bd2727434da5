"""What becomes of runs when somebody dies between two steps. No broker answers: only the claims count."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dagster as dg
import pytest
import yaml
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus

from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.celery.claims import RunClaim
from agent_pipelines.engine.celery.held import HeldRun
from agent_pipelines.engine.celery.launcher import ClaimingCeleryRunLauncher
from agent_pipelines.engine.celery.worker import Worker, WorkerError
from agent_pipelines.engine.place import database_url
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate

STARTING, STARTED = DagsterRunStatus.STARTING, DagsterRunStatus.STARTED


@dg.op
def work() -> None: ...


@dg.job
def job() -> None:
    work()


def instance_of(home: Path, storage: dict[str, object]) -> DagsterInstance:
    launcher = {
        "module": "agent_pipelines.engine.celery",
        "class": "ClaimingCeleryRunLauncher",
        "config": {"broker": "redis://127.0.0.1:1/0", "default_queue": "dagster"},
    }
    home.mkdir()
    settings = {"telemetry": {"enabled": False}, "run_launcher": launcher, **storage}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return DagsterInstance.from_config(str(home))


@dataclass
class Case:
    """A deployment on PostgreSQL, as its daemon and one worker see it."""

    instance: DagsterInstance
    launcher: ClaimingCeleryRunLauncher
    worker: Worker

    def run(self, status: DagsterRunStatus, *, issue: bool = True, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
        run = self.instance.create_run_for_job(job, status=status, tags=tags)
        if issue:
            self.launcher._issue(run)  # pyright: ignore[reportPrivateUsage]
        return run

    def look(self) -> None:
        """As the daemon does a while later."""
        self.launcher._swept_at = -1_000.0  # pyright: ignore[reportPrivateUsage]
        self.launcher.look_after()

    def claim(self, run: dg.DagsterRun) -> RunClaim | None:
        with self.launcher._database.reading() as connection:  # pyright: ignore[reportPrivateUsage]
            return self.launcher._claims.get(connection, run.run_id)  # pyright: ignore[reportPrivateUsage]

    def status(self, run: dg.DagsterRun) -> DagsterRunStatus:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status


@pytest.fixture
def case(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr("agent_pipelines.engine.celery.launcher._SWEEP", 0.0)
    with instance_of(tmp_path / "home", {"storage": {"postgres": {"postgres_url": postgres_url}}}) as instance:
        migrate(Database(database_url(instance)))
        launcher = cast("ClaimingCeleryRunLauncher", instance.run_launcher)
        yield Case(instance, launcher, Worker(instance, queues=[], concurrency=1, name="one"))


def test_a_run_whose_daemon_died_before_its_claim_is_sent(case: Case) -> None:
    run = case.run(STARTING, issue=False)
    case.look()
    claim = case.claim(run)
    assert claim is not None
    assert (claim.attempt, claim.ended_at) == (1, None)
    case.look()
    assert case.claim(run) == claim, "one that is under way is left alone"


def test_a_worker_that_fails_leaves_the_run_to_the_daemon(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(held: HeldRun) -> str:
        raise PermissionError("warm: permission denied")

    run = case.run(STARTING)
    monkeypatch.setattr(case.worker, "_carry", broken)
    case.worker.execute(run.run_id, 1)
    claim = case.claim(run)
    assert claim is not None
    assert (claim.claimed_at is not None, claim.ended_at) == (True, None)
    assert case.status(run) is STARTING
    for _ in range(12):  # nobody says any more that it lives
        monkeypatch.setattr(case.launcher._silence, "seconds", lambda *_: 60.0)  # pyright: ignore[reportPrivateUsage]
        case.look()
    again = case.claim(run)
    assert again is not None
    assert (again.attempt, again.claimed_at, again.ended_at) == (2, None, None)


def test_a_run_that_is_sent_too_often_fails(case: Case) -> None:
    run = case.run(STARTING)
    for attempt in (1, 2, 3):
        claim = case.claim(run)
        assert claim is not None
        assert claim.attempt == attempt
        with case.launcher._database.transaction() as connection:  # pyright: ignore[reportPrivateUsage]
            case.launcher._claims.end(connection, claim, "its daemon died here")  # pyright: ignore[reportPrivateUsage]
        case.look()
    assert case.status(run) is DagsterRunStatus.FAILURE


def test_a_worker_that_was_suspended_on_the_way_touches_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run = case.run(STARTING)
    monkeypatch.setattr(HeldRun, "is_ours", lambda *_: False)
    case.worker.execute(run.run_id, 1)
    claim = case.claim(run)
    assert claim is not None
    assert claim.ended_at is None
    assert case.status(run) is STARTING


def test_a_run_that_succeeds_while_it_is_cancelled_has_succeeded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run = case.run(STARTED)
    claims = case.launcher._claims  # pyright: ignore[reportPrivateUsage]
    cancel = claims.cancel

    def late(connection: object, run_id: str) -> bool:
        done = DagsterEvent(event_type_value=DagsterEventType.RUN_SUCCESS.value, job_name="job", message="done")
        case.instance.report_dagster_event(done, run_id=run_id)
        return cancel(connection, run_id)  # type: ignore[arg-type]

    monkeypatch.setattr(claims, "cancel", late)
    assert case.launcher.terminate(run.run_id)
    assert case.status(run) is DagsterRunStatus.SUCCESS


def test_the_claim_of_a_run_that_others_have_ended_is_closed(case: Case) -> None:
    run = case.run(STARTING, tags={"dagster-celery/queue": "nobody-serves-it"})
    case.instance.report_run_failed(run, "it waited for too long")
    case.look()
    claim = case.claim(run)
    assert claim is not None
    assert claim.ending == "the run was over before a worker had it"


def test_sqlite_is_refused(tmp_path: Path) -> None:
    with instance_of(tmp_path / "home", {}) as instance:
        with pytest.raises(WorkerError, match=r"storage\.postgres"):
            Worker(instance, queues=[], concurrency=1, name=None)
        with pytest.raises(StorageError, match=r"storage\.postgres"):
            cast("ClaimingCeleryRunLauncher", instance.run_launcher).look_after()
