"""The warm process itself: its birth, its death, what it refuses, and who comes after it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import WorkerStatus

from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.place import Listening
from agent_pipelines_tests.engine.warm.project import WarmProject, warm_project

BODY = """
VERSION = "first"


@job
def version(context):
    tell(context, VERSION)


@job
def wait(context):
    tell(context, os.getpid())
    while not (here / "go").exists():
        time.sleep(0.05)
    context.log.info("went on")


@job
def pid(context):
    os.environ["LEFT_BEHIND"] = "yes"
    os.chdir("/")
    tell(context, os.getpid())


@job
def hoard(context):
    hoarded = bytearray(400 * 2**20)
    tell(context, len(hoarded))
    sleep_long()


@job
def surroundings(context):
    tell(context, (os.getpid(), os.environ.get("LEFT_BEHIND"), os.getcwd()))
"""


def kill_warm(project: WarmProject) -> None:
    for each in project.place.all_listening():
        os.kill(each.pid, signal.SIGKILL)
        project.until(lambda each=each: not each.process.is_alive(), "the warm process is still there")


def test_children_outlive_the_warm_process_and_the_next_one_takes_them_over(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        survivor, victim = project.launch("wait"), project.launch("wait")
        project.told(survivor)
        victim_pid = int(project.told(victim))
        kill_warm(project)
        assert project.health(survivor) is WorkerStatus.RUNNING
        os.kill(victim_pid, signal.SIGKILL)
        project.until(lambda: not project.record(victim).process.is_alive(), "the victim lives")
        assert project.health(victim) is WorkerStatus.FAILED  # as run monitoring would see it

        assert project.ended(project.launch("version")) == "SUCCESS"  # starts the next one
        (new,) = project.warm_pids()
        assert project.ended(victim) == "FAILURE"
        assert "The process of the run is gone" in project.messages(victim)
        assert project.record(survivor).owner_pid == new

        (project.file.parent / "go").touch()
        assert project.ended(survivor) == "SUCCESS"
        project.until(lambda: project.place.records.get(survivor) is None, "the record stays")


def test_a_run_is_cancelled_after_the_death_of_its_warm_process(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        run_id = project.launch("wait")
        project.told(run_id)
        kill_warm(project)
        assert project.launcher.terminate(run_id)
        assert project.ended(run_id) == "CANCELED"


def test_an_edit_is_executed_by_the_next_run_and_not_by_the_one_before(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        old = project.launch("wait")
        project.told(old)
        (before,) = project.warm_pids()
        project.write(BODY.replace('"first"', '"second"'))
        new = project.launch("version")
        assert project.told(new) == "second"
        assert project.warm_pids() != {before}
        assert ProcessIdentity.of(before).is_alive()  # it still has a child
        assert project.launcher.terminate(old)
        assert project.ended(old) == "CANCELED"
        project.until(lambda: not _is_there(before), "the old warm process stays")


def test_code_that_cannot_be_loaded_fails_the_run_with_its_words_and_the_correction_works(tmp_path: Path) -> None:
    with warm_project(tmp_path, "this is no Python") as project:
        broken = project.create("version")
        with pytest.raises(DagsterLaunchFailedError, match="SyntaxError"):
            project.instance.launch_run(broken, workspace=None)  # type: ignore[arg-type]
        assert project.ended(broken) == "FAILURE"
        project.write('raise LookupError("no such thing")')
        with pytest.raises(DagsterLaunchFailedError, match="LookupError: no such thing"):
            project.launch("version")
        project.write("os._exit(7)")
        with pytest.raises(DagsterLaunchFailedError, match="the warm process died"):
            project.launch("version")
        project.write(BODY)
        assert project.told(project.launch("version")) == "first"


def test_code_with_threads_is_not_forked(tmp_path: Path) -> None:
    body = BODY + "\nthreading.Thread(target=sleep_long, daemon=True).start()\n"
    with warm_project(tmp_path, body) as project:
        run_id = project.launch("wait")
        pid = int(project.told(run_id))
        assert "left 1 thread running" in project.messages(run_id)
        os.kill(pid, signal.SIGKILL)
        assert project.ended(run_id) == "FAILURE"
        assert "SIGKILL" in project.messages(run_id)


def test_two_launchers_that_start_at_once_share_one_warm_process(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        runs = [project.create("pid") for _ in range(3)]
        script = textwrap.dedent("""
            import sys
            from dagster import DagsterInstance

            with DagsterInstance.from_config(sys.argv[1]) as instance:
                instance.launch_run(sys.argv[2], workspace=None)
            """)
        launchers = [subprocess.Popen([sys.executable, "-c", script, str(project.home), run_id]) for run_id in runs]
        assert [launcher.wait() for launcher in launchers] == [0, 0, 0]
        owners = {project.told(run_id) for run_id in runs}
        assert len(owners) == 3
        assert {project.ended(run_id) for run_id in runs} == {"SUCCESS"}
        assert len(list((project.home / "process_logs").glob("warm-*.log"))) == 1
        assert len(project.warm_pids()) == 1


def test_what_a_dead_warm_process_left_is_replaced(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        project.ended(project.launch("version"))
        (listening,) = project.place.all_listening()
        (key,) = [path.stem for path in project.place.directory.glob("*.json")]
        kill_warm(project)
        # Its id is somebody else's now, and its socket is still there.
        reused = Listening(os.getpid(), listening.started, HOST, listening.socket)
        project.place.announce(key, reused)
        assert Path(listening.socket).exists()
        assert project.ended(project.launch("version")) == "SUCCESS"


def test_a_run_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY, {"memory_limit_mb": 350}) as project:
        run_id = project.launch("hoard")
        assert project.ended(run_id) == "FAILURE"
        assert "memory_limit_mb of run_launcher is 350" in project.messages(run_id)


def test_a_reused_process_is_as_it_was_before(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY, {"isolation": "reuse", "max_runs": 2}) as project:
        first = project.launch("pid")
        pid = project.told(first)
        project.ended(first)
        project.until(lambda: project.place.records.get(first) is None, "the record stays")
        second = project.launch("surroundings")
        assert project.told(second) == str((int(pid), None, os.getcwd()))
        project.ended(second)
        project.until(lambda: project.place.records.get(second) is None, "the record stays")
        third = project.launch("surroundings")
        assert eval(project.told(third))[0] != int(pid)
        assert project.ended(third) == "SUCCESS"


def test_launches_wait_for_a_free_place(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY, {"max_children": 1, "start_timeout": 20.0}) as project:
        first = project.launch("wait")
        project.told(first)
        second = project.create("version")
        script = "import sys; from dagster import DagsterInstance as I; I.from_config(sys.argv[1]).launch_run(sys.argv[2], None)"
        with subprocess.Popen([sys.executable, "-c", script, str(project.home), second]) as launcher:
            (project.file.parent / "go").touch()
            assert launcher.wait() == 0
        assert {project.ended(first), project.ended(second)} == {"SUCCESS"}


def test_the_warm_process_ends_when_nobody_needs_it(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY, {"idle_timeout": 0.1}) as project:
        project.ended(project.launch("version"))
        project.until(lambda: not project.place.all_listening(), "it stays")


def test_the_warm_process_ends_with_the_home(tmp_path: Path) -> None:
    with warm_project(tmp_path, BODY) as project:
        project.ended(project.launch("version"))
        (listening,) = project.place.all_listening()
        project.place.directory.rename(tmp_path / "gone")
        project.until(lambda: not listening.process.is_alive(), "it stays")
        assert not Path(listening.socket).parent.exists()


def _is_there(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"
