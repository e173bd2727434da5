"""A deployment whose runs are executed on two hosts: one is lost, and then the engine is changed by one file."""

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_pipelines.engine.service import Service
from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines_tests.broker import BrokerServer
from agent_pipelines_tests.e2e.accounting import Story, close, ran, watched
from agent_pipelines_tests.e2e.faulty import ROOT, Deployment, FaultyProject
from agent_pipelines_tests.engine.celery.hosts import Host
from agent_pipelines_tests.postgres import PostgresServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

_AGENT = """
import asyncio
from pathlib import Path


async def note(invocation):
    package = Path(__file__).parents[1]
    with package.joinpath("calls").open("a") as calls:
        calls.write(f"{invocation.task}@{invocation.due_at}\\n")
    while package.joinpath("hold").exists():
        await asyncio.sleep(0.05)
    return "done"
"""


class HoldingProject(FaultyProject):
    """One whose agent can be made to keep whom it was asked by waiting."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (self.package / "defs" / "noting.py").write_text(_AGENT)

    def hold(self) -> None:
        (self.package / "hold").touch()

    def release(self) -> None:
        (self.package / "hold").unlink()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[HoldingProject]:
    project = HoldingProject(tmp_path / "project")
    yield project
    project.close()


@pytest.fixture
def hosts(
    tmp_path: Path, server: PostgresServer, project: HoldingProject, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Host]]:
    """The homes of a daemon and of two workers, with the settings that users copy."""
    broker = BrokerServer()
    variables = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "postgres", "PASSWORD": "x", "DATABASE": "postgres"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AGENT_PIPELINES_PG_{name}", value)
    monkeypatch.setenv("AGENT_PIPELINES_BROKER", broker.url())
    # After the variables are set: the code server, too, reads the settings, and its sensors could not open the record otherwise.
    project.serve()
    for name in ("here", "one", "two"):
        (tmp_path / name).mkdir()
        settings(tmp_path / name, "celery")
    hosts = [Host(name, tmp_path / name, None) for name in ("one", "two")]
    for host in hosts:
        host.start()
    yield hosts
    for host in hosts:
        host.close()
    broker.stop()


def test_a_worker_host_is_lost_and_then_the_engine_is_changed(
    hosts: Sequence[Host], project: HoldingProject, tmp_path: Path, story: Story
) -> None:
    deployment = Deployment(project, tmp_path / "here")
    since = deployment.hub.clock.now()
    names = watched(deployment, "scaled_out")
    with daemon(deployment):
        deployment.wait_until(lambda: ran(deployment, names, since))
        story.tell("workers execute what is due")
        project.hold()
        asked = sum(project.calls().values())
        deployment.wait_until(lambda: sum(project.calls().values()) > asked)
        lost, host = held(deployment, hosts)
        host.signal(signal.SIGKILL)
        project.release()
        story.tell(f"host {host.name} is killed, with run {lost}")
        deployment.wait_until(lambda: lost not in {run.run_id for run in deployment.unfinished()})
        run = deployment.instance.get_run_by_id(lost)
        assert run is not None
        assert run.status.value == "FAILURE"
        at = deployment.hub.clock.now()
        story.tell("the daemon has failed its run")
        deployment.wait_until(lambda: ran(deployment, names, at))
        story.tell("the other host executes what is due")
        close(deployment, names, since)
        story.tell("the books are closed")
        deployment.wait_until(lambda: not claimed_slots(deployment))
        deployment.wait_until(lambda: not deployment.unfinished())
    deployment.close()
    for each in hosts:
        each.signal(signal.SIGKILL)
    settings(deployment.home, "postgres")
    deployment = Deployment(project, deployment.home)
    since = deployment.hub.clock.now()
    names = watched(deployment, "on_one_machine")
    try:
        with daemon(deployment):
            deployment.wait_until(lambda: ran(deployment, names, since))
            story.tell("without workers, after one file was changed, the same project runs")
            close(deployment, names, since)
    finally:
        deployment.close()
        WarmPlace(deployment.home).stop_all()


def settings(home: Path, engine: str) -> None:
    shutil.copy(ROOT / "deploy" / engine / "dagster.yaml", home)


@contextmanager
def daemon(deployment: Deployment) -> Iterator[None]:
    command = [sys.executable, "-m", "agent_pipelines.cli.main", "--home", str(deployment.home), "daemon"]
    service = Service("daemon", [*command, "--workspace", str(deployment.project.workspace)])
    service.keep()
    try:
        yield
    finally:
        service.ask_to_end()
        service.end(30)


def held(deployment: Deployment, hosts: Sequence[Host]) -> tuple[str, Host]:
    """A run that is executed, and the host that has it."""
    with deployment.hub.database.reading() as connection:
        claim = next(claim for claim in deployment.hub.run_claims.open(connection) if claim.worker is not None)
        name = next(each.name for each in deployment.hub.workers.alive(connection) if each.id == claim.worker)
    return claim.run_id, next(host for host in hosts if host.name == name)


def claimed_slots(deployment: Deployment) -> int:
    storage = deployment.instance.event_log_storage
    return sum(len(storage.get_concurrency_info(key).claimed_slots) for key in storage.get_concurrency_keys())
