"""Daemons that lead and stand by, and the server of their database: killed, suspended, cut off and started again."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
import yaml

from agent_pipelines.core.errors import StorageError
from agent_pipelines.engine.service import Service
from agent_pipelines_tests.e2e.accounting import Story, claimed, close, ran, watched
from agent_pipelines_tests.e2e.faulty import Deployment, FaultyProject, make_home
from agent_pipelines_tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)


def test_a_leader_is_killed_and_the_standby_goes_on(on_postgres: Deployment, story: Story) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "killed_leader")
    first = deployment.start()
    deployment.wait_until(lambda: ran(deployment, names, since))
    second = deployment.start()
    deployment.wait_until(lambda: roles(deployment, second.pid) == ["standby"])
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
    deployment.wait_until(lambda: roles(deployment, second.pid) == ["standby"])
    deployment.project.arm("claim", signal.SIGSTOP)
    deployment.wait_until(lambda: not deployment.project.is_armed)
    at = deployment.hub.clock.now()
    story.tell("the leader is suspended, with ticks written and not committed")
    deployment.wait_until(lambda: roles(deployment, second.pid) == ["leader"])
    story.tell("the standby leads")
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the standby has claimed what was due next")
    assert first.is_alive()
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    story.tell(f"the old leader woke and ended with exit code {first.exitcode}")
    assert first.exitcode == 1
    close(deployment, names, since)


def test_a_standby_is_killed_and_the_leader_goes_on(on_postgres: Deployment, story: Story) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "killed_standby")
    first = deployment.start()
    deployment.wait_until(lambda: ran(deployment, names, since))
    second = deployment.start()
    deployment.wait_until(lambda: roles(deployment, second.pid) == ["standby"])
    second.kill()
    second.join()
    at = deployment.hub.clock.now()
    story.tell("the standby is killed")
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the leader has claimed what was due next")
    third = deployment.start()
    deployment.wait_until(lambda: roles(deployment, third.pid) == ["standby"])
    story.tell("another one stands by")
    assert roles(deployment, first.pid) == ["leader"]
    close(deployment, names, since)


def test_a_standby_and_then_its_leader_end_when_they_are_asked_to(on_postgres: Deployment) -> None:
    first = on_postgres.start()
    on_postgres.wait_until(lambda: roles(on_postgres, first.pid) == ["leader"])
    second = on_postgres.start()
    on_postgres.wait_until(lambda: roles(on_postgres, second.pid) == ["standby"])
    for process in (second, first):
        assert roles(on_postgres, first.pid) == ["leader"]
        process.terminate()
        process.join()
        assert (process.exitcode, roles(on_postgres, process.pid)) == (0, [])
    on_postgres.kill()


@pytest.mark.parametrize("mode", ["killed", pytest.param("stopped", marks=pytest.mark.long)])
def test_postgresql_is_gone_for_a_moment_under_leader_and_standby(
    on_postgres: Deployment, server: PostgresServer, story: Story, mode: str
) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, f"{mode}_server")
    command = [sys.executable, "-m", "agent_pipelines.cli.main", "--home", str(deployment.home), "daemon"]
    services = [Service("daemon", [*command, "--workspace", str(deployment.project.workspace)]) for _ in range(2)]

    def kept() -> bool:
        for service in services:
            service.keep()
        return True

    try:
        deployment.wait_until(lambda: kept() and roles(deployment) == ["leader", "standby"])
        deployment.wait_until(lambda: kept() and ran(deployment, names, since))
        if mode == "killed":
            server.kill()
        else:
            server.stop("immediate", remove=False)
        story.tell(f"PostgreSQL is {mode}")
        server.start()
        at = deployment.hub.clock.now()
        story.tell("PostgreSQL is started")
        deployment.wait_until(lambda: kept() and claimed(deployment, at))
        story.tell("what was due next is claimed")
        deployment.wait_until(lambda: kept() and ran(deployment, names, at))
        story.tell("what was due next has run")
        close(deployment, names, since)
    finally:
        for service in services:
            service.ask_to_end()
        for service in services:
            service.end(30)


def test_a_leader_that_loses_its_connections_ends_and_the_standby_goes_on(on_postgres: Deployment, story: Story) -> None:
    deployment = on_postgres
    since = deployment.hub.clock.now()
    names = watched(deployment, "cut_off_leader")
    first = deployment.start()
    deployment.wait_until(lambda: ran(deployment, names, since))
    deployment.start()
    deployment.wait_until(lambda: roles(deployment) == ["leader", "standby"])
    with deployment.hub.database.transaction() as connection:
        ended = connection.execute(sa.text(_END_LEADER)).scalar()
    assert ended
    at = deployment.hub.clock.now()
    story.tell("the connection of the leader is ended")
    first.join()
    story.tell(f"the old leader ended with exit code {first.exitcode}")
    assert first.exitcode == 1
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the standby has claimed what was due next")
    close(deployment, names, since)


@pytest.mark.long
def test_daemons_with_code_servers_of_their_own_follow_each_other_and_leave_none_behind(
    on_postgres: Deployment, tmp_path: Path, story: Story
) -> None:
    deployment, package = on_postgres, on_postgres.project.package
    module = {"module_name": f"{package.name}.definitions", "working_directory": str(package.parent), "location_name": "project"}
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}))
    since = deployment.hub.clock.now()
    names = watched(deployment, "own_servers")
    first = deployment.start(workspace)
    deployment.wait_until(lambda: ran(deployment, names, since))
    second = deployment.start(workspace)
    deployment.wait_until(lambda: roles(deployment) == ["leader", "standby"])
    servers = code_servers(first.pid)
    assert servers
    assert code_servers(second.pid), "the code is loaded before it is needed"
    first.kill()
    first.join()
    at = deployment.hub.clock.now()
    story.tell("the leader is killed")
    deployment.wait_until(lambda: claimed(deployment, at))
    story.tell("the standby has claimed what was due next")
    assert psutil.wait_procs(servers, timeout=120)[1] == []
    story.tell("the code server of the killed leader has ended")
    close(deployment, names, since)


def test_the_disk_of_postgresql_is_full_and_then_has_room_again(
    project: FaultyProject, tmp_path_factory: pytest.TempPathFactory, story: Story
) -> None:
    with small_disk() as disk:
        server = PostgresServer(directory=disk)
        try:
            storage = {"postgres": {"postgres_url": server.dsn}}
            home = make_home(tmp_path_factory.mktemp("full") / "home", {"storage": storage, "event_log_storage": None})
            deployment = Deployment(project, home)
            since = deployment.hub.clock.now()
            names = watched(deployment, "full_disk")
            daemon = deployment.start()
            deployment.wait_until(lambda: ran(deployment, names, since))
            ballast = disk / "ballast"
            fill(ballast)
            story.tell("the disk is full")
            deployment.wait_until(lambda: "No space left on device" in deployment.log())
            story.tell("the daemon says so")
            with pytest.raises(StorageError, match="No space left on device"):
                deployment.register([f"too_much_{number}" for number in range(2_000)], {"kind": "interval", "every": "1h"})
            with deployment.hub.database.reading() as connection:
                assert not deployment.hub.triggers.list(connection, task=("default", "many", "too_much_0"))
            ballast.unlink()
            at = deployment.hub.clock.now()
            story.tell("there is room again")
            deployment.wait_until(lambda: ran(deployment, names, at))
            story.tell("what was due next has run")
            assert daemon.is_alive()
            close(deployment, names, since)
            deployment.close()
        finally:
            server.stop()


_END_LEADER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent-pipelines leader'
AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)
"""


def roles(deployment: Deployment, pid: int | None = None) -> list[str]:
    """Of one process, or of all: those that an earlier test has killed count as alive for a while."""
    with deployment.hub.database.reading() as connection:
        return [each.role for each in deployment.hub.daemons.alive(connection) if pid in (None, each.pid)]


def code_servers(pid: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(pid).children() if "dagster" in " ".join(each.cmdline())]


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own, with room for a server and little more, in a directory that its user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        yield directory
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(2**16))
