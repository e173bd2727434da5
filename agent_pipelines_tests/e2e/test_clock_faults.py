"""Every due run is accounted for, none twice: real daemons, bursts and runs, killed and suspended where it hurts."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.triggers import StoredTrigger
from agent_pipelines_tests.components.project import Project
from agent_pipelines_tests.e2e.accounting import Story, alive, assert_accounted_for, close, ran, unfinished_executions, watched
from agent_pipelines_tests.e2e.dying import IN_BURSTS, OF_BURSTS, OF_RUNS
from agent_pipelines_tests.e2e.faulty import SECOND, Deployment

pytestmark = pytest.mark.timeout(600)

SINGLE = "default__single__interval"


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


@pytest.mark.parametrize("fixture", ["on_sqlite", pytest.param("on_warm", marks=pytest.mark.long)])
def test_a_run_that_lost_its_daemon_on_the_way_to_its_process_is_told_as_failed_to_launch(
    request: pytest.FixtureRequest, fixture: str, story: Story
) -> None:
    deployment: Deployment = request.getfixturevalue(fixture)
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
    at = deployment.hub.clock.now()
    deployment.switch(SINGLE, on=True)
    deployment.wait_until(lambda: ran(deployment, ["single"], at))
    story.tell("the pool, which lets one run in, is free again")
    deployment.switch(SINGLE, on=False)
    close(deployment, [], since)


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


@pytest.mark.long
def test_the_code_server_is_killed_and_started_again(on_warm: Deployment, story: Story) -> None:
    deployment = on_warm
    since = deployment.hub.clock.now()
    names = watched(deployment, "killed_code")
    deployment.switch(SINGLE, on=True)
    deployment.start()
    deployment.wait_until(lambda: ran(deployment, [*names, "single"], since))
    deployment.project.kill_server()
    killed = deployment.hub.clock.now()
    story.tell("the code server is killed")
    deployment.wait_until(lambda: ran(deployment, names, killed))
    story.tell("what was due without it has run in the burst")
    deployment.project.serve()
    at = deployment.hub.clock.now()
    story.tell("the code server is started")
    deployment.wait_until(lambda: ran(deployment, [*names, "single"], at))
    story.tell("what was due next has its run")
    deployment.switch(SINGLE, on=False)
    close(deployment, names, since)
    assert {tick.verdict for tick in deployment.ticks(since, at)} <= {Verdict.RAN, Verdict.SKIPPED}


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


def declared(deployment: Deployment) -> Sequence[StoredTrigger]:
    with deployment.hub.database.reading() as connection:
        return deployment.hub.triggers.list(connection, source="declared")
