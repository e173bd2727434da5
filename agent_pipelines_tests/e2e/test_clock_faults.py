"""Every due run is accounted for, none twice: real daemons, bursts and runs, killed and suspended where it hurts."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.engine.daemons import StoredDaemon
from agent_pipelines.engine.service import Service
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.triggers import StoredTrigger
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.e2e.dying import IN_BURSTS, OF_BURSTS, OF_RUNS
from agent_pipelines_tests.e2e.faulty import SECOND, Deployment, FaultyProject, make_home
from agent_pipelines_tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)
_log = logging.getLogger("clock_faults")

SINGLE = "default__single__interval"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProject]:
    project = FaultyProject(tmp_path_factory.mktemp("faulty") / "project")
    project.serve()
    yield project
    project.close()


@pytest.fixture(scope="module")
def on_sqlite(project: FaultyProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(project, make_home(tmp_path_factory.mktemp("sqlite") / "home", {}))
    yield deployment
    deployment.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own: it is stopped and started."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def on_postgres(project: FaultyProject, server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    storage = {"postgres": {"postgres_url": server.dsn}}
    home = make_home(tmp_path_factory.mktemp("postgres") / "home", {"storage": storage, "event_log_storage": None})
    deployment = Deployment(project, home)
    yield deployment
    deployment.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    return request.getfixturevalue("on_sqlite" if request.param == "sqlite" else "on_postgres")


class Story:
    """What happened, with the seconds since it began: a test that fails shows it, and all do with `--log-cli-level info`."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, words: str) -> None:
        _log.info("%7.1f s  %s", time.monotonic() - self._began, words)


@pytest.fixture
def story(caplog: pytest.LogCaptureFixture) -> Story:
    caplog.set_level("INFO", _log.name)
    return Story()


def assert_accounted_for(deployment: Deployment, since: int, until: int) -> None:
    """The books of a stretch of time close, and no agent was asked twice for the same instant."""
    books = deployment.hub.witness.books(since, until)
    assert books.closes, books.problems
    total = books.total
    assert total.due > 0
    assert (total.gaps, total.open, total.doubles) == (0, 0, 0)
    assert total.due == sum(total.verdicts.values())
    twice = [call for call, times in deployment.project.calls().items() if times > 1]
    assert twice == []


def test_a_daemon_is_killed_at_each_step_of_a_run(on_sqlite: Deployment, story: Story) -> None:
    deployment, project = on_sqlite, on_sqlite.project
    since = deployment.hub.clock.now()
    deployment.switch(SINGLE, on=True)
    for boundary in ("claim", "look", "take", "create", "submit", "start"):
        project.arm(boundary)
        daemon = deployment.start()
        daemon.join()
        story.tell(f"killed when {OF_RUNS[boundary]}")
        assert daemon.exitcode == -signal.SIGKILL
    deployment.switch(SINGLE, on=False)
    daemon = deployment.start()
    until = deployment.hub.clock.now()
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    story.tell("all that was due has its verdict")
    deployment.wait_until(lambda: not deployment.unfinished())
    ticks = deployment.ticks(since, until)
    assert [tick.verdict for tick in ticks].count(Verdict.RAN) == 1
    (run,) = deployment.runs()
    assert run.status == "SUCCESS"
    assert run.run_id in {tick.run_id for tick in ticks}
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def test_a_run_that_lost_its_daemon_on_the_way_to_its_process_is_told_as_failed_to_launch(
    on_sqlite: Deployment, story: Story
) -> None:
    deployment = on_sqlite
    since = deployment.hub.clock.now()
    deployment.switch(SINGLE, on=True)
    deployment.project.arm("dequeue")
    deployment.start().join()
    deployment.switch(SINGLE, on=False)
    until = deployment.hub.clock.now()
    story.tell(f"killed when {OF_RUNS['dequeue']}")
    deployment.start()
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    story.tell("all that was due has its verdict")
    (failed,) = (tick for tick in deployment.ticks(since, until) if tick.verdict is Verdict.LAUNCH_FAILED)
    assert failed.reason == f"run {failed.run_id} ended (FAILURE) before it admitted an execution"
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def test_a_daemon_is_killed_at_each_step_of_a_burst(on_sqlite: Deployment, story: Story) -> None:
    deployment, project = on_sqlite, on_sqlite.project
    since = deployment.hub.clock.now()
    names = [f"of_bursts_{number}" for number in range(10)]
    deployment.register(names, {"kind": "interval", "every": "2s"})
    for boundary in OF_BURSTS:
        project.arm(boundary)
        daemon = deployment.start()
        daemon.join()
        story.tell(f"killed when {OF_BURSTS[boundary]}")
        assert daemon.exitcode == -signal.SIGKILL
    deployment.start()
    at = deployment.hub.clock.now()
    deployment.wait_until(lambda: ran(deployment, names, at))
    story.tell("a tick that became due afterwards has run")
    deployment.remove(names)
    until = deployment.hub.clock.now()
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    deployment.wait_until(lambda: not deployment.unfinished() and not deployment.live_bursts())
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def test_bursts_are_killed_at_each_step_of_an_execution(on_sqlite: Deployment, story: Story) -> None:
    deployment, project = on_sqlite, on_sqlite.project
    since = deployment.hub.clock.now()
    names = [f"in_bursts_{number}" for number in range(60)]
    deployment.start()
    due_at = since + 5 * SECOND
    deployment.register(names, {"kind": "at", "at": isoformat(due_at)})
    for boundary, reached in IN_BURSTS.items():
        project.arm(boundary)
        deployment.wait_until(lambda: not project.is_armed)
        story.tell(f"a burst is killed when {reached}")
    until = due_at + 1
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    story.tell("every tick has its verdict")
    deployment.wait_until(lambda: not unfinished_executions(deployment))
    deployment.wait_until(lambda: not deployment.unfinished() and not deployment.live_bursts())
    story.tell("every execution and every run has ended")
    assert {tick.verdict for tick in deployment.ticks(since, until)} == {Verdict.RAN}
    with deployment.hub.database.reading() as connection:
        executions = deployment.hub.executions.list(connection, application="many", created_from=since, limit=1_000)
    ended = Counter((each.status, each.error_class) for each in executions)
    assert ended.total() == 60
    assert set(ended) <= {
        (Status.SUCCEEDED, None),
        (Status.FAILED, ErrorClass.UNKNOWN_OUTCOME),
        (Status.FAILED, ErrorClass.INTERNAL),
    }
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def test_the_second_daemon_of_sqlite_is_refused_in_clear_words(on_sqlite: Deployment) -> None:
    first = on_sqlite.start()
    on_sqlite.wait_until(lambda: [each.role for each in alive(on_sqlite, first.pid)] == ["leader"])
    command = [sys.executable, "-m", "agent_pipelines.cli.main", "--home", str(on_sqlite.home), "daemon"]
    second = subprocess.run(
        [*command, "--workspace", str(on_sqlite.project.workspace)], capture_output=True, text=True, check=False
    )
    assert second.returncode != 0
    assert f"process {first.pid} keeps the time of {on_sqlite.home} already" in second.stderr
    assert "several need PostgreSQL" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.is_alive()
    on_sqlite.kill()


def test_definitions_that_cannot_be_loaded_after_an_edit_stop_nobody_else(
    on_sqlite: Deployment, tmp_path: Path, story: Story
) -> None:
    deployment = on_sqlite
    other = Project(tmp_path / "other")
    other.agent().task("broken_later", "triggers:\n- kind: interval\n  every: 4s\n")
    of_other = {"module_name": f"{other.package}.definitions", "working_directory": str(other.root), "location_name": "other"}
    both = tmp_path / "workspace.yaml"
    both.write_text(yaml.safe_dump({"load_from": [deployment.project.location, {"python_module": of_other}]}))
    other.close()
    deployment.start(both)
    deployment.wait_until(lambda: [each for each in declared(deployment) if each.task == "broken_later"])
    deployment.kill()
    (other.defs / "broken_later" / "defs.yaml").write_text(
        "type: agent_pipelines.components.AgentTask\nattributes: {intnt: no}\n"
    )
    story.tell("the other project is broken")
    since = deployment.hub.clock.now()
    names = watched(deployment, "beside_broken")
    deployment.start(both)
    deployment.wait_until(lambda: ran(deployment, names, since))
    story.tell("registered tasks run")

    def of_broken() -> list[Tick]:
        return [tick for tick in deployment.ticks(since, deployment.hub.clock.now()) if tick.task == "broken_later"]

    deployment.wait_until(lambda: any(tick.verdict is Verdict.LAUNCH_FAILED for tick in of_broken()))
    story.tell("a tick of the broken project has its verdict")
    (failed, *_) = [tick for tick in of_broken() if tick.verdict is Verdict.LAUNCH_FAILED]
    assert "no job is named 'default__broken_later'" in str(failed.reason)
    assert "code location 'other' cannot be loaded" in str(failed.reason)
    assert [each.state for each in declared(deployment) if each.task == "broken_later"] == ["on"]
    with deployment.hub.database.transaction() as connection:  # nobody declares it any more, and the next daemon would say so
        deployment.hub.triggers.remove(connection, ("default", "default", "broken_later"), "interval", actor="test")
    close(deployment, names, since)


def test_a_leader_is_killed_and_the_standby_goes_on(on_postgres: Deployment, story: Story) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "killed_leader")
    first = deployment.start()
    deployment.wait_until(lambda: ran(deployment, names, since))
    second = deployment.start()
    deployment.wait_until(lambda: [each.role for each in alive(deployment, second.pid)] == ["standby"])
    first.kill()
    first.join()
    at = deployment.hub.clock.now()
    story.tell("the leader is killed")
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the standby has claimed what was due next")
    close(deployment, names, since)


def test_a_leader_is_suspended_in_a_transaction_and_wakes_after_its_successor_took_over(
    on_postgres: Deployment, story: Story
) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "suspended_leader")
    first = deployment.start()
    deployment.wait_until(lambda: ran(deployment, names, since))
    second = deployment.start()
    deployment.wait_until(lambda: [each.role for each in alive(deployment, second.pid)] == ["standby"])
    deployment.project.arm("claim", signal.SIGSTOP)
    deployment.wait_until(lambda: not deployment.project.is_armed)
    at = deployment.hub.clock.now()
    story.tell("the leader is suspended, with ticks written and not committed")
    deployment.wait_until(lambda: [each.role for each in alive(deployment, second.pid)] == ["leader"])
    story.tell("the standby leads")
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the standby has claimed what was due next")
    assert first.is_alive()
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    story.tell(f"the old leader woke and ended with exit code {first.exitcode}")
    assert first.exitcode == 1
    close(deployment, names, since)


def test_postgresql_is_restarted_under_a_daemon(on_postgres: Deployment, server: PostgresServer, story: Story) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "restarted_server")
    command = [sys.executable, "-m", "agent_pipelines.cli.main", "--home", str(deployment.home), "daemon"]
    service = Service("daemon", [*command, "--workspace", str(deployment.project.workspace)])

    def kept() -> bool:
        service.keep()
        return True

    try:
        deployment.wait_until(lambda: kept() and ran(deployment, names, since))
        server.stop("immediate", remove=False)
        story.tell("PostgreSQL is stopped")
        server.start()
        at = deployment.hub.clock.now()
        story.tell("PostgreSQL is started")
        deployment.wait_until(lambda: kept() and claimed(deployment, at))
        story.tell("what was due next is claimed")
        deployment.wait_until(lambda: kept() and ran(deployment, names, at))
        story.tell("what was due next has run")
        close(deployment, names, since)
    finally:
        service.ask_to_end()
        service.end(30)


def watched(deployment: Deployment, name: str) -> Sequence[str]:
    names = [f"{name}_{number}" for number in range(5)]
    deployment.register(names, {"kind": "interval", "every": "2s"})
    return names


def close(deployment: Deployment, names: Sequence[str], since: int) -> None:
    """End what was watched, and check the books of the time in between."""
    deployment.remove(names)
    until = deployment.hub.clock.now()
    deployment.wait_until(lambda: deployment.is_decided(since, until))
    deployment.wait_until(lambda: not unfinished_executions(deployment))
    assert_accounted_for(deployment, since, until)
    deployment.kill()


def declared(deployment: Deployment) -> Sequence[StoredTrigger]:
    with deployment.hub.database.reading() as connection:
        return deployment.hub.triggers.list(connection, source="declared")


def alive(deployment: Deployment, pid: int) -> list[StoredDaemon]:
    with deployment.hub.database.reading() as connection:
        return [each for each in deployment.hub.daemons.alive(connection) if each.pid == pid]


def claimed(deployment: Deployment, after: int) -> bool:
    now = deployment.hub.clock.now()
    return any(tick.claimed_at > after for tick in deployment.ticks(after, now + 2 * SECOND))


def ran(deployment: Deployment, names: Sequence[str], after: int) -> bool:
    """Whether each of some tasks has run for an instant that was due later."""
    ticks = deployment.ticks(after, deployment.hub.clock.now() + SECOND)
    return set(names) <= {tick.task for tick in ticks if tick.verdict is Verdict.RAN and tick.due_at > after}


def unfinished_executions(deployment: Deployment) -> int:
    with deployment.hub.database.reading() as connection:
        return len(deployment.hub.executions.unfinished(connection))
