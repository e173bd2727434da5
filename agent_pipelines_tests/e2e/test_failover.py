"""Daemons that lead and stand by, and the server of their database: killed, suspended, cut off and started again."""

import os
import signal
import sys

import pytest

from agent_pipelines.engine.services import Service
from agent_pipelines_tests.e2e.accounting import Story, alive, claimed, close, ran, watched
from agent_pipelines_tests.e2e.faulty import Deployment
from agent_pipelines_tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)


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
