import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from agent_pipelines.cli.main import app
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import open_hub
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate
from agent_pipelines_tests.conftest import create_postgres_database
from agent_pipelines_tests.insight.filled import Filled


class Cli:
    """The command line over one deployment."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        """Run a command; a traceback fails the test."""
        done = CliRunner().invoke(app, ["--home", str(self.home), *arguments], input=input)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def ok(self, *arguments: str, input: str | None = None) -> str:
        """What a command prints that succeeds."""
        done = self(*arguments, input=input)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The document of a command."""
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, *arguments: str, code: int = 2) -> str:
        """The one line with which a command fails."""
        done = self(*arguments)
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No deployment and no project but those of the test; what commands set for their process is taken back."""
    level = logging.getLogger("dagster").level
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    yield
    logging.getLogger("dagster").setLevel(level)


def new_home(path: Path) -> Path:
    """Make the directory of a deployment on SQLite that was never opened."""
    path.mkdir()
    (path / "dagster.yaml").write_text("telemetry: {enabled: false}\nrun_queue: {dequeue_interval_seconds: 1}\n")
    return path


@pytest.fixture(scope="session")
def opened_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose tables are made; tests copy it, because making them takes most of the time of a command."""
    path = new_home(tmp_path_factory.mktemp("cli") / "home")
    with dg.DagsterInstance.from_config(str(path)) as instance:
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("any"))
        database = Database(database_url(instance))
        migrate(database)
        database.close()
    return path


@pytest.fixture
def home(tmp_path: Path, opened_home: Path) -> Path:
    """The directory of a deployment on SQLite in which nothing has happened yet."""
    return Path(shutil.copytree(opened_home, tmp_path / "home"))


@pytest.fixture
def postgres_home(tmp_path: Path) -> Path:
    """The directory of a new deployment on PostgreSQL."""
    path = tmp_path / "home"
    path.mkdir()
    url = create_postgres_database().replace("+psycopg2", "")
    (path / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\nstorage: {{postgres: {{postgres_url: '{url}'}}}}\n")
    return path


@pytest.fixture
def cli(home: Path) -> Cli:
    return Cli(home)


def record_of(home: Path, clock: ManualClock) -> Filled:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return Filled(open_hub(database_url(instance)).database, clock)


@pytest.fixture
def record(home: Path, clock: ManualClock) -> Filled:
    """The deployment's record."""
    return record_of(home, clock)
