"""Deployments that are killed, one of each kind for the tests of a module, and the story of what happened."""

from collections.abc import Iterator

import pytest

from agent_pipelines.engine.warm.place import WarmPlace
from agent_pipelines_tests.e2e.accounting import STORY, Story
from agent_pipelines_tests.e2e.faulty import Deployment, FaultyProject, make_home
from agent_pipelines_tests.postgres import PostgresServer


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
def on_warm(project: FaultyProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """On SQLite, whose runs are forks of a warm process."""
    launcher = {"module": "agent_pipelines.engine.warm", "class": "WarmRunLauncher"}
    deployment = Deployment(project, make_home(tmp_path_factory.mktemp("warm") / "home", {"run_launcher": launcher}))
    yield deployment
    deployment.close()
    WarmPlace(deployment.home).stop_all()


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


@pytest.fixture
def story(caplog: pytest.LogCaptureFixture) -> Story:
    caplog.set_level("INFO", STORY)
    return Story()
