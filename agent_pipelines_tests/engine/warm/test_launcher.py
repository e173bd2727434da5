"""What becomes of runs, with real processes: one warm process for all of these."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.compute_log_manager import ComputeIOType

from agent_pipelines.engine.warm.identity import ProcessIdentity
from agent_pipelines_tests.conftest import create_postgres_database
from agent_pipelines_tests.engine.warm.project import WarmProject, warm_project

BODY = """
@job
def succeed(context):
    print("hello from the op")
    tell(context, (os.getpid(), os.getsid(0), os.fstat(0).st_rdev == os.stat(os.devnull).st_rdev))


@job
def fail(context):
    raise ValueError("no good")


@job
def leave(context):
    os._exit(0)


@job
def system_exit(context):
    sys.exit(3)


@job
def sleep(context):
    tell(context, os.getpid())
    sleep_long()


@job
def stubborn(context):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    helper = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(120)"])
    tell(context, helper.pid)
    sleep_long()


@job
def in_c(context):
    tell(context, os.getpid())
    sum(range(10**12))


@job
def spoil(context):
    os.chdir("/")
    os.environ.clear()
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.closerange(3, 256)


@job
def fork(context):
    if (pid := os.fork()) == 0:
        sleep_long()
    tell(context, pid)


@job
def threads(context):
    threading.Thread(target=sleep_long).start()
    tell(context, os.getpid())
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProject]:
    storage = {}
    if request.param == "postgresql":
        url = create_postgres_database()
        storage = {"storage": {"postgres": {"postgres_url": sa.make_url(url).render_as_string(hide_password=False)}}}
    settings = {"grace_after_interrupt": 0.3, "grace_after_terminate": 0.3}
    with warm_project(tmp_path_factory.mktemp("warm"), BODY, settings, storage) as project:
        assert project.ended(project.launch("succeed")) == "SUCCESS"
        yield project


def test_a_run_has_a_process_and_a_session_of_its_own(project: WarmProject) -> None:
    first, second = project.launch("succeed"), project.launch("succeed")
    told = [eval(project.told(run_id)) for run_id in (first, second)]
    assert all(pid == session and no_input for pid, session, no_input in told)
    assert told[0][0] != told[1][0]
    assert {project.ended(first), project.ended(second)} == {"SUCCESS"}
    assert len(project.warm_pids()) == 1
    assert project.place.records.get(first) is None


def test_what_an_op_prints_is_captured(project: WarmProject) -> None:
    run_id = project.launch("succeed")
    project.ended(run_id)
    manager = project.instance.compute_log_manager
    (log_key,) = [
        entry.dagster_event.event_specific_data.file_key  # type: ignore[union-attr]
        for entry in project.instance.all_logs(run_id)
        if entry.dagster_event is not None and entry.dagster_event.event_type_value == "LOGS_CAPTURED"
    ]
    path = manager.get_captured_local_path([run_id, "compute_logs", log_key], ComputeIOType.STDOUT.value[-3:])  # type: ignore
    assert "hello from the op" in Path(path).read_text()


def test_a_run_that_raises_fails(project: WarmProject) -> None:
    run_id = project.launch("fail")
    assert project.ended(run_id) == "FAILURE"


@pytest.mark.parametrize(("job", "words"), [("leave", "ended with exit code 0"), ("spoil", "")])
def test_a_run_that_breaks_its_process_fails(project: WarmProject, job: str, words: str) -> None:
    before = project.warm_pids()
    run_id = project.launch(job)
    assert project.ended(run_id) == "FAILURE"
    assert words in project.messages(run_id)
    assert project.ended(project.launch("succeed")) == "SUCCESS"
    assert project.warm_pids() == before
    project.until(lambda: project.place.records.get(run_id) is None, "the record stays")


def test_a_run_that_leaves_python_is_over(project: WarmProject) -> None:
    assert project.ended(project.launch("system_exit")) == "FAILURE"


def test_a_run_whose_process_is_killed_fails_at_once_and_says_why(project: WarmProject) -> None:
    run_id = project.launch("sleep")
    project.told(run_id)
    assert project.health(run_id) is WorkerStatus.RUNNING
    os.kill(int(project.told(run_id)), signal.SIGKILL)
    assert project.ended(run_id) == "FAILURE"
    assert "killed by SIGKILL" in project.messages(run_id)


def test_a_cancelled_run_is_cancelled(project: WarmProject) -> None:
    run_id = project.launch("sleep")
    project.told(run_id)
    assert project.launcher.terminate(run_id)
    assert project.ended(run_id) == "CANCELED"
    assert not project.launcher.terminate(run_id)


@pytest.mark.parametrize("job", ["stubborn", "in_c"])
def test_a_run_that_does_not_listen_is_killed_and_cancelled(project: WarmProject, job: str) -> None:
    run_id = project.launch(job)
    helper = ProcessIdentity.of(int(project.told(run_id)))
    assert helper.is_alive()
    child = project.record(run_id).process
    assert project.launcher.terminate(run_id)
    assert project.ended(run_id) == "CANCELED"
    project.until(lambda: not child.is_alive(), "the process is still there")
    project.until(lambda: not helper.is_alive(), "what the run started is still there")


@pytest.mark.parametrize("job", ["fork", "threads"])
def test_what_a_run_started_and_left_behind_ends_with_it(project: WarmProject, job: str) -> None:
    run_id = project.launch(job)
    left = ProcessIdentity.of(int(project.told(run_id)))
    assert project.ended(run_id) == "SUCCESS"
    project.until(lambda: not left.is_alive(), "what it started is still there")


def test_a_run_cancelled_before_it_began_does_not_begin(project: WarmProject) -> None:
    run_id = project.create("sleep")
    project.instance.report_run_canceling(project.run(run_id))
    project.launcher.launch_run(_context(project, run_id))
    assert project.ended(run_id) == "CANCELED"
    assert not (project.file.parent / f"{run_id}.told").exists()


def test_a_run_is_not_executed_twice(project: WarmProject) -> None:
    run_id = project.launch("sleep")
    project.told(run_id)
    record = project.record(run_id)
    project.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
    assert project.record(run_id) == record
    assert not project.run(run_id).is_finished
    project.launcher.terminate(run_id)
    assert project.ended(run_id) == "CANCELED"


def test_a_run_is_resumed_in_a_new_process(project: WarmProject) -> None:
    run_id = project.launch("sleep")
    project.told(run_id)
    first = project.record(run_id).process
    project.forget(run_id)
    project.instance.resume_run(run_id, None, 1)  # type: ignore[arg-type]
    project.told(run_id)
    second = project.record(run_id).process
    assert not first.is_alive()
    assert second != first
    assert project.health(run_id) is WorkerStatus.RUNNING
    project.launcher.terminate(run_id)
    assert project.ended(run_id) == "CANCELED"


def _context(project: WarmProject, run_id: str):
    from dagster._core.launcher import LaunchRunContext

    return LaunchRunContext(project.run(run_id), workspace=None)
